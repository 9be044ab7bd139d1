use super::*;
use crate::bundle::SliceAxis;
use crate::message::{SliceHeader, WireKind, encode_tensor};
use crate::runtime::assembly::Assembler;
use crate::volume::{CaseFiles, CasePlan, ClassTable, Grid, Regrid};

fn window(segment_id: i64) -> Window {
    let header = SliceHeader {
        session_id: "s".into(),
        segment_id,
        attempt: 0,
        seq: 0,
        count: 1,
        case_id: "unknown".into(),
        classes: 2,
        level: None,
        slices: None,
        image_size: None,
        covered: None,
        times: Default::default(),
        shape: vec![2, 1, 1],
    };
    let logits = encode_tensor(&tch::Tensor::from_slice(&[1.0f32, 0.0]), WireKind::Float32);
    Assembler::new(vec![LOGITS]).add(&LOGITS, header, &logits).unwrap().unwrap()
}

/// The answers so far.
fn acks(told: &mut tokio::sync::mpsc::UnboundedReceiver<Told>) -> Vec<Ack> {
    let acks = std::iter::from_fn(|| told.try_recv().ok()).filter_map(|told| match told {
        Told::Ack(ack) => Some(ack),
        Told::Masks(_) | Told::SetAside(_) => None,
    });
    acks.collect()
}

/// A case of one image, called `unknown` as the windows: provisional, or a first pass.
fn made(session_id: &str, search: bool) -> CaseMessage {
    let model = "
name: made
classes: [background, organ]
modalities: [MR]
patch: { depth: 1, plane: { window: [2, 2] } }
normalisation: z_score
network: { backbone: lite_medsam, image_size: 64 }
weights: { file: weights.pth, sha256: '0' }
";
    let model = serde_yaml::from_str(model).unwrap();
    let world = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let grid = Grid::new([2, 2, 1], world, SliceAxis::Axial);
    let files = CaseFiles { case_id: "unknown".into(), images: Vec::new(), labels: None };
    let live = LiveCase {
        series_id: "a".into(),
        revision: 0,
        provisional: true,
        shape: [2, 2],
        images: Vec::new(),
        planned_ns: 0,
    };
    CaseMessage::Open(Box::new(CaseOpen {
        session_id: session_id.into(),
        first_segment: 0,
        index: 0,
        cases: 1,
        classes: ClassTable::of_model(&["background".to_owned(), "organ".to_owned()]),
        started_unix_ms: 0,
        commanded_unix_ms: None,
        plan: CasePlan::on_grid(&files, grid, &model, Regrid::Refuse).unwrap(),
        live: (!search).then_some(live),
        search,
    }))
}

#[test]
fn provisional_cases_end_without_a_failure_whatever_arrives() {
    let (to_io, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (to_export, exports) = mpsc::channel();
    let mut desk = Desk::new(to_export, to_io);
    let mut answers = || acks(&mut told);
    let shown = || Ack::Shown { case_id: "unknown".into(), bounds: None };
    // A window of a loader that has restarted since changes nothing.
    desk.take(Job::Case(made("another run", false)));
    desk.take(Job::Window(Box::new(window(0))));
    assert_eq!(answers(), [Ack::Segment(0)]);
    assert!(desk.open.contains_key("unknown"));
    // One with another shape than planned ends it.
    desk.take(Job::Case(made("s", false)));
    desk.take(Job::Window(Box::new(window(0))));
    assert_eq!(answers(), [Ack::Segment(0), shown()]);
    desk.take(Job::Case(CaseMessage::Dropped { case_id: "unknown".into() }));
    assert_eq!(answers(), [shown()]);
    assert!(exports.try_recv().is_err(), "a failure is noted");
}

#[test]
fn windows_of_unknown_cases_take_bounded_room_and_do_not_count_as_work() {
    let (to_io, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (to_export, _exports) = mpsc::channel();
    let mut desk = Desk::new(to_export, to_io);
    let count = 2 * MAX_EARLY as i64;
    for segment in (0..count).chain(0..count) {
        desk.take(Job::Window(Box::new(window(segment))));
        assert!(matches!(told.try_recv(), Ok(Told::SetAside(aside)) if aside == segment));
    }
    assert_eq!(desk.early.len(), MAX_EARLY);
    desk.take(Job::Case(CaseMessage::Failed { case_id: "unknown".into(), error: "gone".into() }));
    assert!(desk.early.is_empty());
}

#[test]
fn a_first_pass_is_answered_with_what_it_found_and_nothing_is_written() {
    let (to_io, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (to_export, exports) = mpsc::channel();
    let mut desk = Desk::new(to_export, to_io);
    let mut answers = || acks(&mut told);
    desk.take(Job::Case(made("s", true)));
    let Some(case) = desk.open.get_mut("unknown") else { panic!("the case is not open") };
    let logits = ndarray::Array4::from_shape_fn((2, 1, 2, 2), |(class, _, row, column)| {
        if (row, column) == (0, 1) { class as f32 } else { -(class as f32) }
    });
    case.assembler.push(0, logits.view()).unwrap();
    desk.close_case("unknown".into());
    // The network's rows run from back to front, as those of this volume.
    let found = Some([[1, 2], [0, 1], [0, 1]]);
    let located = Ack::Located { case_id: "unknown".into(), first_segment: 0, found };
    assert_eq!(answers(), std::slice::from_ref(&located));
    // The answer was lost: the loader announces the case again, or sends its window again.
    desk.take(Job::Case(made("s", true)));
    desk.take(Job::Window(Box::new(window(0))));
    assert_eq!(answers(), [located, Ack::Segment(0)]);
    // Planned anew, with other images: what was found before is no answer.
    let CaseMessage::Open(mut anew) = made("s", true) else { panic!("another message") };
    anew.first_segment = 7;
    desk.take(Job::Case(CaseMessage::Open(anew)));
    assert_eq!(answers(), []);
    assert!(desk.open.contains_key("unknown"));
    assert!(exports.try_recv().is_err(), "something is written");
}

#[test]
fn a_case_that_is_dropped_is_dropped_in_its_first_pass() {
    let (to_io, _told) = tokio::sync::mpsc::unbounded_channel();
    let (to_export, _exports) = mpsc::channel();
    let mut desk = Desk::new(to_export, to_io);
    let CaseMessage::Open(mut open) = made("s", true) else { panic!("another message") };
    open.plan.files.case_id = search_name("unknown");
    desk.take(Job::Case(CaseMessage::Open(open)));
    assert_eq!(desk.open.len(), 1);
    desk.take(Job::Case(CaseMessage::Dropped { case_id: "unknown".into() }));
    assert!(desk.open.is_empty());
}
