//! What the loader gets, in virtual time.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self_prompt_sam::dicom::arrange;
use self_prompt_sam::message::live::{Frame, FrameAck, FrameAckMessage, SeriesMessage};
use self_prompt_sam::scanner::{Decoder, Desk, Intake, Limits, Outgoing, Spool};
use self_prompt_sam::volume::Image;
use tempfile::TempDir;

use super::peer::{COLUMNS, ROWS, image, pixels, write_file};
use crate::dicom::SERIES;

const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);

/// A desk with a clock.
struct World {
    folder: TempDir,
    intake: Arc<Intake>,
    desk: Desk,
    decoder: Decoder,
    now: Instant,
}

/// What was sent.
#[derive(Default)]
struct Sent {
    series: Vec<SeriesMessage>,
    frames: Vec<(Frame, Vec<f32>)>,
}

impl Sent {
    fn indices(&self) -> Vec<i64> {
        self.frames.iter().map(|(frame, _)| frame.index).collect()
    }
}

impl World {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn on(folder: TempDir) -> Self {
        let spool = Spool::open(&folder.path().join("spool"), Limits::default()).unwrap();
        let intake = Arc::new(Intake::new(spool, |_| {}));
        let now = Instant::now();
        let desk = Desk::new(intake.clone(), IDLE, now);
        Self { folder, intake, desk, decoder: Decoder::default(), now }
    }

    fn restart(self) -> Self {
        let folder = self.folder;
        drop((self.intake, self.desk));
        Self::on(folder)
    }

    fn add_object(&mut self, object: &dicom_object::InMemDicomObject) -> String {
        let path = self.folder.path().join("image");
        write_file(object, &path);
        let mut incoming = self.intake.spool().begin().unwrap();
        incoming.write(&fs::read(path).unwrap()).unwrap();
        let id = self.intake.store(incoming, None).unwrap().series_id;
        self.desk.on_stored(&id, self.now);
        id
    }

    fn add(&mut self, series: &str, index: usize) -> String {
        self.add_object(&image(series, index))
    }

    /// Everything that can be sent now.
    fn send(&mut self) -> Sent {
        let mut sent = Sent::default();
        loop {
            while let Some(outgoing) = self.desk.take_outgoing() {
                match outgoing {
                    Outgoing::Series(message) => sent.series.push(message),
                    Outgoing::Frame(frame, pixels) => sent.frames.push((*frame, pixels)),
                }
            }
            let Some(request) = self.desk.next_request() else { return sent };
            let decoded = self.decoder.decode(request);
            self.desk.on_decoded(decoded, self.now);
        }
    }

    fn wait(&mut self, time: Duration) -> Sent {
        self.now += time;
        self.desk.on_tick(self.now);
        self.send()
    }

    fn ack(&mut self, loader: &str, ack: FrameAck) -> Sent {
        self.desk.on_ack(FrameAckMessage { loader_id: loader.into(), ack }, self.now);
        self.send()
    }

    fn ack_images(&mut self, id: &str, revision: i64, indices: &[i64]) -> Sent {
        let (series_id, indices) = (id.to_owned(), indices.to_vec());
        self.ack("a", FrameAck::Images { series_id, revision, indices })
    }

    fn done(&mut self, id: &str, revision: i64) -> Sent {
        self.ack("a", FrameAck::Done { series_id: id.into(), revision, error: None })
    }
}

fn closed(id: &str, revision: i64, images: i64) -> SeriesMessage {
    SeriesMessage::Closed { series_id: id.into(), revision, images }
}

fn is_open(message: &SeriesMessage, id: &str, of: i64) -> bool {
    matches!(message, SeriesMessage::Open { series_id, revision, .. } if series_id == id && *revision == of)
}

#[test]
fn a_series_is_sent_closed_and_done() {
    let mut world = World::new();
    let id = world.add("1.2.4", 0);
    let sent = world.send();
    assert!(is_open(&sent.series[0], &id, 0) && sent.series.len() == 1);
    let (frame, values) = &sent.frames[0];
    assert_eq!((frame.series_id.clone(), frame.revision, frame.index), (id.clone(), 0, 0));
    assert_eq!([frame.placement.rows, frame.placement.columns], [usize::from(ROWS), usize::from(COLUMNS)]);
    assert_eq!(*values, pixels(0));
    world.wait(4 * SECOND);
    world.add("1.2.4", 1);
    assert_eq!(world.send().indices(), [1]);
    world.ack_images(&id, 0, &[0, 1]);
    assert!(world.wait(4 * SECOND).series.is_empty());
    assert_eq!(world.wait(SECOND).series, [closed(&id, 0, 2)]);
    assert!(world.wait(29 * SECOND).series.is_empty());
    let repeated = world.wait(SECOND).series;
    assert!(is_open(&repeated[0], &id, 0) && repeated[1] == closed(&id, 0, 2), "{repeated:?}");
    world.done(&id, 0);
    let sent = world.wait(60 * SECOND);
    assert!(sent.series.is_empty() && sent.frames.is_empty());
    assert!(world.restart().send().series.is_empty());
}

#[test]
fn images_that_are_not_acknowledged_are_sent_again_after_5_seconds() {
    let mut world = World::new();
    let id = world.add("1.2.4", 0);
    (1..4).for_each(|index| drop(world.add("1.2.4", index)));
    assert_eq!(world.send().indices(), [0, 1, 2, 3]);
    assert!(world.ack_images(&id, 0, &[0, 2]).frames.is_empty());
    assert!(world.wait(4 * SECOND).frames.is_empty());
    let first = world.wait(SECOND);
    assert_eq!(first.indices(), [1], "one at a time until the loader answers");
    assert_eq!(first.frames[0].1, pixels(1));
    assert_eq!(world.ack_images(&id, 0, &[1]).indices(), [3]);
    world.ack_images(&id, 0, &[3]);
    assert!(world.wait(20 * SECOND).frames.is_empty());
}

#[test]
fn credits_bound_what_is_under_way_and_series_take_turns() {
    let mut world = World::new();
    let ids: Vec<String> = ["1.2.4", "1.2.5", "1.2.6"].map(|series| world.add(series, 0)).to_vec();
    for series in ["1.2.4", "1.2.5", "1.2.6"] {
        (1..50).for_each(|index| drop(world.add(series, index)));
    }
    let sent = world.send();
    assert_eq!(sent.frames.len(), 64);
    let of = |id: &String| sent.frames.iter().filter(|(frame, _)| frame.series_id == *id).count();
    assert!(ids.iter().all(|id| (21..=22).contains(&of(id))), "{:?}", ids.iter().map(of).collect::<Vec<_>>());
    assert_eq!(world.ack_images(&ids[0], 0, &[0, 1, 2]).frames.len(), 3);
}

#[test]
fn a_late_image_opens_the_series_again_with_all_its_images() {
    let mut world = World::new();
    let id = world.add("1.2.4", 0);
    world.add("1.2.4", 1);
    world.send();
    world.ack_images(&id, 0, &[0, 1]);
    assert_eq!(world.wait(IDLE).series, [closed(&id, 0, 2)]);
    world.add("1.2.4", 2);
    let sent = world.send();
    assert!(is_open(&sent.series[0], &id, 1));
    assert_eq!(sent.indices(), [0, 1, 2]);
    world.done(&id, 0);
    world.ack_images(&id, 1, &[0, 1, 2]);
    assert_eq!(world.wait(IDLE).series, [closed(&id, 1, 3)]);
    world.done(&id, 1);
    world.add("1.2.4", 3);
    let sent = world.send();
    assert!(is_open(&sent.series[0], &id, 2), "also after it was done");
    assert_eq!(sent.indices(), [0, 1, 2, 3]);
    let mut world = world.restart();
    assert!(is_open(&world.send().series[0], &id, 2));
}

#[test]
fn a_loader_that_has_restarted_gets_everything_that_is_not_done() {
    let mut world = World::new();
    world.ack("a", FrameAck::Hello);
    let id = world.add("1.2.4", 0);
    world.add("1.2.4", 1);
    world.send();
    world.ack_images(&id, 0, &[0, 1]);
    world.wait(IDLE);
    let sent = world.ack("b", FrameAck::Hello);
    assert!(is_open(&sent.series[0], &id, 0));
    assert_eq!(sent.series[1], closed(&id, 0, 2));
    assert_eq!(sent.indices(), [0, 1]);
    let late = world.ack("a", FrameAck::Images { series_id: id.clone(), revision: 0, indices: vec![0, 1] });
    assert!(late.frames.is_empty() && late.series.is_empty());
    assert_eq!(world.wait(5 * SECOND).indices(), [0], "what the former loader says does not count");
}

#[test]
fn a_source_that_has_restarted_goes_on() {
    let mut world = World::new();
    let id = world.add("1.2.4", 0);
    world.add("1.2.4", 1);
    world.send();
    world.ack_images(&id, 0, &[0, 1]);
    let mut world = world.restart();
    let sent = world.send();
    assert!(is_open(&sent.series[0], &id, 0) && sent.series.len() == 1);
    assert_eq!(sent.indices(), [0, 1]);
    assert_eq!(world.wait(IDLE).series, [closed(&id, 0, 2)]);
    let sent = world.restart().send();
    assert_eq!(sent.series[1], closed(&id, 0, 2));
}

#[test]
fn a_count_in_the_headers_closes_the_series_at_once() {
    use dicom_core::{DataElement, PrimitiveValue, VR};
    use dicom_dictionary_std::tags;
    let mut world = World::new();
    let of = |index, count: &str| {
        let mut object = image("1.2.4", index);
        object.put(DataElement::new(tags::IMAGES_IN_ACQUISITION, VR::IS, PrimitiveValue::from(count)));
        object
    };
    let id = world.add_object(&of(0, "2"));
    let opened = world.send().series;
    assert!(matches!(&opened[..], [SeriesMessage::Open { expected: Some(2), .. }]), "{opened:?}");
    world.add_object(&of(1, "2"));
    assert_eq!(world.send().series, [closed(&id, 0, 2)]);
    let mut world = World::new();
    world.add_object(&of(0, "2"));
    world.add_object(&of(1, "7"));
    assert!(world.send().series.iter().all(|message| !matches!(message, SeriesMessage::Closed { .. })));
}

#[test]
fn an_image_that_cannot_be_read_fails_its_series_by_name() {
    let mut world = World::new();
    let id = world.add("1.2.4", 0);
    let other = world.add("1.2.5", 0);
    let path = world.intake.spool().image(&id, 0).unwrap().path;
    fs::write(&path, b"damaged").unwrap();
    let sent = world.send();
    assert_eq!(sent.frames.len(), 1);
    assert_eq!(sent.frames[0].0.series_id, other);
    let SeriesMessage::Failed { series_id, error, .. } = sent.series.last().unwrap() else {
        panic!("{:?}", sent.series)
    };
    assert_eq!(*series_id, id);
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    world.done(&id, 0);
    assert_eq!(world.intake.spool().unfinished(), [other]);
}

/// Series of all kinds: the images that are sent are the slices of the volume that is read from their folder.
#[test]
fn images_are_the_slices_of_the_volume_of_their_folder() {
    for case in fs::read_dir(SERIES.join("good")).unwrap() {
        let folder = case.unwrap().path();
        let mut world = World::new();
        let mut frames = Vec::new();
        for file in fs::read_dir(&folder).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let mut incoming = world.intake.spool().begin().unwrap();
            incoming.write(&bytes).unwrap();
            let id = world.intake.store(incoming, None).unwrap().series_id;
            world.desk.on_stored(&id, world.now);
            frames.extend(world.send().frames);
        }
        let volume = Image::read(&folder).unwrap();
        let placements = frames.iter().map(|(frame, _)| (frame.index as usize, &frame.placement));
        let arranged = arrange(Path::new("series"), placements);
        assert_eq!(arranged.len(), 1, "{}", folder.display());
        let [columns, rows, slices] = arranged[0].volume.as_ref().unwrap().shape();
        assert_eq!(arranged[0].images.len(), slices);
        let [live, offline] =
            [arranged[0].volume.as_ref().unwrap().world_from_voxel(), volume.header.world_from_voxel()];
        for (a, b) in live.as_flattened().iter().zip(offline.as_flattened()) {
            // Headers hold float32.
            assert!((a - b).abs() < 1e-4, "{}: {live:?}, {offline:?}", folder.display());
        }
        for (slice, &index) in arranged[0].images.iter().enumerate() {
            for (at, &value) in frames[index].1.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let expected = volume.voxels[[0, slice, rows - 1 - row, column]];
                assert_eq!(value, expected, "{} image {index}", folder.display());
            }
        }
    }
}

/// Files of other authors, many of them damaged: each is taken, or refused in one line.
#[test]
fn every_file_of_pydicom_is_taken_or_refused() {
    let mut world = World::new();
    let (mut taken, mut refused) = (0, 0);
    for file in fs::read_dir(SERIES.join("corpus")).unwrap() {
        let mut incoming = world.intake.spool().begin().unwrap();
        incoming.write(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        match world.intake.store(incoming, None) {
            Ok(stored) => {
                world.desk.on_stored(&stored.series_id, world.now);
                taken += 1;
            }
            Err(refusal) => {
                assert!(!refusal.reason.is_empty() && !refusal.reason.contains('\n'), "{refusal}");
                refused += 1;
            }
        }
    }
    assert!(taken >= 10 && refused >= 10, "{taken} taken, {refused} refused");
    assert!(world.send().series.iter().all(|message| !matches!(message, SeriesMessage::Failed { .. })));
}
