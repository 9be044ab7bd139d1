//! The thread that blends windows into label maps. Another thread writes files: meanwhile, windows of the next cases
//! are blended and acknowledged. The loader's limit on open cases bounds the number of waiting cases.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use eyre::{Result, bail, eyre};
use ndarray::{Array3, ArrayView4};
use tokio::sync::mpsc::UnboundedSender;

use super::LOGITS;
use super::live::{self, Work, with_own};
use crate::message::control::{Ack, CaseMessage, CaseOpen, LiveCase};
use crate::runtime::assembly::Window;
use crate::runtime::export::{Export, Told};
use crate::runtime::notice::{Notice, Progress, tell};
use crate::runtime::stage::panic_text;
use crate::tensor::view_values;
use crate::volume::LabelAssembler;

/// How often progress is logged while windows arrive.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Most windows kept until their case is announced; further ones are dropped, and sent again.
const MAX_EARLY: usize = 16;
/// Provisional cases that are remembered. The loader has at most one for each open series.
const MAX_SHOWN: usize = 256;

/// A message for the thread.
pub(super) enum Job {
    Case(CaseMessage),
    Window(Box<Window>),
}

struct OpenCase {
    open: CaseOpen,
    assembler: LabelAssembler,
    /// Time spent on its windows so far.
    blending: Duration,
    /// What the other nodes have worked on it so far.
    work: Work,
}

/// The state of the thread.
pub(super) struct Desk {
    to_export: mpsc::Sender<Export>,
    to_io: UnboundedSender<Told>,
    open: HashMap<String, OpenCase>,
    /// Cases that are complete or failed and have been passed to the exporter.
    closed: BTreeSet<String>,
    /// Windows that arrived before their case was announced, by segment.
    early: BTreeMap<i64, Window>,
    /// The newest provisional cases whose masks are sent, with their answers.
    shown: VecDeque<(String, Ack)>,
    slices: usize,
    started: Option<Instant>,
    progress: Instant,
}

impl Desk {
    pub fn new(to_export: mpsc::Sender<Export>, to_io: UnboundedSender<Told>) -> Self {
        Self {
            to_export,
            to_io,
            open: HashMap::new(),
            closed: BTreeSet::new(),
            early: BTreeMap::new(),
            shown: VecDeque::new(),
            slices: 0,
            started: None,
            progress: Instant::now(),
        }
    }

    fn answer(&self, ack: Ack) {
        // The I/O loop ends only at exit.
        let _ = self.to_io.send(Told::Ack(ack));
    }

    fn export(&self, export: Export) {
        // The exporting thread ends only when this one does.
        let _ = self.to_export.send(export);
    }

    pub fn take(&mut self, job: Job) {
        match job {
            Job::Case(CaseMessage::Open(open)) => self.open_case(*open),
            Job::Case(CaseMessage::Failed { case_id, error }) => {
                self.open.remove(&case_id);
                self.early.retain(|_, window| window.header.case_id != case_id);
                self.closed.insert(case_id.clone());
                self.export(Export::GivenUp { case_id, error });
            }
            Job::Case(CaseMessage::Dropped { case_id }) => {
                self.early.retain(|_, window| window.header.case_id != case_id);
                self.open.remove(&case_id);
                if !self.answer_again(&case_id) {
                    self.remember(case_id, None);
                }
            }
            Job::Case(CaseMessage::Background { case_id, classes, live }) => {
                if !self.answer_again(&case_id) {
                    self.show(case_id, &live, None, classes, Work::new());
                }
            }
            Job::Case(CaseMessage::End { .. }) => self.export(Export::End),
            Job::Window(window) => self.add_window(*window),
        }
    }

    fn open_case(&mut self, open: CaseOpen) {
        let case_id = open.plan.files.case_id.clone();
        if self.closed.contains(&case_id) {
            return self.export(Export::AnswerAgain { case_id });
        }
        // A loader that was restarted announces its cases anew.
        let is_known = |known: &OpenCase| known.open.session_id == open.session_id;
        if self.answer_again(&case_id) || self.open.get(&case_id).is_some_and(is_known) {
            return;
        }
        self.started.get_or_insert_with(Instant::now);
        let assembler = LabelAssembler::new(&open.plan, open.classes.len());
        self.open.insert(
            case_id.clone(),
            OpenCase { open, assembler, blending: Duration::ZERO, work: Work::new() },
        );
        let (early, others): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.early)
            .into_iter()
            .partition(|(_, window)| window.header.case_id == case_id);
        self.early = others;
        for window in early.into_values() {
            self.add_window(window);
        }
    }

    fn add_window(&mut self, window: Window) {
        let case_id = window.header.case_id.clone();
        let is_closed =
            self.closed.contains(&case_id) || self.shown.iter().any(|(shown, _)| *shown == case_id);
        if is_closed {
            return self.answer(Ack::Segment(window.header.segment_id));
        }
        let segment = window.header.segment_id;
        let is_of_another_run = |case: &OpenCase| case.open.session_id != window.header.session_id;
        if self.open.get(&case_id).is_some_and(is_of_another_run) {
            // Sent by a loader that has restarted since.
            return self.answer(Ack::Segment(segment));
        }
        if !self.open.contains_key(&case_id) {
            if self.early.len() < MAX_EARLY || self.early.contains_key(&segment) {
                self.early.insert(segment, window);
            }
            // As in `answer`.
            let _ = self.to_io.send(Told::SetAside(segment));
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.blend(&case_id, &window)))
            .unwrap_or_else(|panic| Err(eyre!("{}", panic_text(&*panic))));
        self.answer(Ack::Segment(segment));
        match outcome {
            Ok(false) => {}
            Ok(true) => self.close_case(case_id),
            Err(error) if self.is_provisional(&case_id) => {
                tracing::warn!("no provisional masks: case {case_id}: {error:#}");
                self.open.remove(&case_id);
                self.remember(case_id, None);
            }
            Err(error) => {
                self.open.remove(&case_id);
                self.closed.insert(case_id.clone());
                let error = format!("case {case_id}: {error:#}");
                self.export(Export::Failed { case_id, error });
            }
        }
    }

    fn is_provisional(&self, case_id: &str) -> bool {
        let live = self.open.get(case_id).and_then(|case| case.open.live.as_ref());
        live.is_some_and(|live| live.provisional)
    }

    fn close_case(&mut self, case_id: String) {
        let Some(OpenCase { open, assembler, blending, work }) = self.open.remove(&case_id) else { return };
        let labels = assembler.finish();
        if let Some(live) = open.live.as_ref().filter(|live| live.provisional) {
            let work = with_own(work, blending);
            return self.show(case_id, live, Some(&labels), open.classes.len(), work);
        }
        self.closed.insert(case_id);
        let slices = self.slices;
        self.export(Export::Write { open: Box::new(open), labels, blending, work, slices });
    }

    /// Sends the masks of a provisional case.
    fn show(
        &mut self,
        case_id: String,
        live: &LiveCase,
        labels: Option<&Array3<u8>>,
        classes: usize,
        work: Work,
    ) {
        let (masks, waits) = live::masks(live, labels, classes, work);
        // As in `answer`.
        let _ = self.to_io.send(Told::Masks(masks));
        self.export(Export::Latencies(waits));
        let bounds = labels.and_then(|labels| live::foreground_bounds(labels.view()));
        self.remember(case_id, bounds);
    }

    /// Answers for a provisional case, and remembers the answer.
    fn remember(&mut self, case_id: String, bounds: Option<[[usize; 2]; 2]>) {
        let ack = Ack::Shown { case_id: case_id.clone(), bounds };
        self.answer(ack.clone());
        self.shown.push_back((case_id, ack));
        self.shown.drain(..self.shown.len().saturating_sub(MAX_SHOWN));
    }

    /// Answers again for a provisional case whose masks are sent; false if they are not.
    fn answer_again(&self, case_id: &str) -> bool {
        let shown = self.shown.iter().find(|(shown, _)| shown == case_id);
        if let Some((_, ack)) = shown {
            self.answer(ack.clone());
        }
        shown.is_some()
    }

    /// Blends a window into its case; returns true if the case is complete.
    fn blend(&mut self, case_id: &str, window: &Window) -> Result<bool> {
        let Some(case) = self.open.get_mut(case_id) else { return Ok(false) };
        let OpenCase { open, assembler, blending, work } = case;
        let started = Instant::now();
        let index = usize::try_from(window.header.segment_id - open.first_segment)?;
        let windows = open.plan.windows().len();
        if window.header.session_id != open.session_id || index >= windows {
            bail!("a window of another run arrived");
        }
        let logits = window.tensor(LOGITS.name, 0); // [D, N, H, W]
        let [depth, height, width] = open.plan.patch();
        let expected = [depth, open.classes.len(), height, width].map(|size| size as i64);
        if logits.size() != expected {
            bail!("logits have the shape {:?}, expected {expected:?}", logits.size());
        }
        view_values(&logits, |values: &[f32]| -> Result<()> {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                bail!("the logits of window {index} contain {value}");
            }
            let by_slice = ArrayView4::from_shape((depth, open.classes.len(), height, width), values)?;
            assembler.push(index, by_slice.permuted_axes([1, 0, 2, 3]))?;
            Ok(())
        })?;
        *blending += started.elapsed();
        for (node, [began_ns, sent_ns]) in &window.header.times {
            *work.entry(node.clone()).or_default() += sent_ns.saturating_sub(*began_ns) as f64 * 1e-9;
        }
        let missing = assembler.missing().len();
        self.slices += depth;
        self.report_progress(case_id, windows - missing, windows);
        Ok(missing == 0)
    }

    fn report_progress(&mut self, case_id: &str, arrived: usize, windows: usize) {
        let Some(case) = self.open.get(case_id) else { return };
        let seconds = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let rate = self.slices as f64 / seconds.max(1e-3);
        // The remaining time follows from the cases done and the part of this one, as a fraction of all cases.
        let share = (self.closed.len() as f64 + arrived as f64 / windows as f64) / case.open.cases as f64;
        let remaining = (seconds / share.max(1e-6) * (1.0 - share)).max(0.0) as u64;
        tell(&Notice::Progress(Progress {
            case_id: case_id.into(),
            cases_done: self.closed.len(),
            cases: case.open.cases,
            windows_done: arrived,
            windows,
            slices_per_second: rate,
            seconds_left: remaining,
        }));
        if arrived < windows && self.progress.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.progress = Instant::now();
        tracing::info!(
            "case {}/{} {case_id}: window {arrived}/{windows}, {rate:.1} slices/s, {:02}:{:02} left",
            self.closed.len() + 1,
            case.open.cases,
            remaining / 60,
            remaining % 60
        );
    }
}

#[cfg(test)]
mod tests {
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
            covered: None,
            times: Default::default(),
            shape: vec![2, 1, 1],
        };
        let logits = encode_tensor(&tch::Tensor::from_slice(&[1.0f32, 0.0]), WireKind::Float32);
        Assembler::new(vec![LOGITS]).add(&LOGITS, header, &logits).unwrap().unwrap()
    }

    /// A provisional case of one image, called `unknown` as the windows.
    fn provisional(session_id: &str) -> CaseMessage {
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
            live: Some(live),
        }))
    }

    #[test]
    fn provisional_cases_end_without_a_failure_whatever_arrives() {
        let (to_io, mut told) = tokio::sync::mpsc::unbounded_channel();
        let (to_export, exports) = mpsc::channel();
        let mut desk = Desk::new(to_export, to_io);
        let mut answers = || {
            let acks = std::iter::from_fn(|| told.try_recv().ok()).filter_map(|told| match told {
                Told::Ack(ack) => Some(ack),
                Told::Masks(_) | Told::SetAside(_) => None,
            });
            acks.collect::<Vec<_>>()
        };
        let shown = || Ack::Shown { case_id: "unknown".into(), bounds: None };
        // A window of a loader that has restarted since changes nothing.
        desk.take(Job::Case(provisional("another run")));
        desk.take(Job::Window(Box::new(window(0))));
        assert_eq!(answers(), [Ack::Segment(0)]);
        assert!(desk.open.contains_key("unknown"));
        // One with another shape than planned ends it.
        desk.take(Job::Case(provisional("s")));
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
}
