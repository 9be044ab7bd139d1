//! The series that are kept, and the slices that wait for a page.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use self_prompt_sam::message::live::SeriesMessage;
use self_prompt_sam::view::{MaskState, Phase, Pushed, QUEUE, Queue, Store, StoreError, Viewers};

use super::{frame, mask};

const SHAPE: [usize; 2] = [16, 12];
const PIXELS: usize = 16 * 12;
/// Room for about six images with masks.
const MOST_BYTES: usize = 10_000;

#[derive(Debug, Clone)]
enum Step {
    Frame(u8, i64, i64),
    Mask(u8, i64, i64, bool),
    Open(u8, i64),
    Closed(u8, i64),
    Failed(u8, i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (series, revision, index) = (0u8..4, 0i64..2, 0i64..8);
    let step = prop_oneof![
        4 => (series.clone(), revision.clone(), index.clone()).prop_map(|(s, r, i)| Step::Frame(s, r, i)),
        4 => (series.clone(), revision.clone(), index, any::<bool>())
            .prop_map(|(s, r, i, provisional)| Step::Mask(s, r, i, provisional)),
        1 => (series.clone(), revision.clone()).prop_map(|(s, r)| Step::Open(s, r)),
        1 => (series.clone(), revision.clone()).prop_map(|(s, r)| Step::Closed(s, r)),
        1 => (series, revision).prop_map(|(s, r)| Step::Failed(s, r)),
    ];
    prop::collection::vec(step, 0..200)
}

fn id(series: u8) -> String {
    format!("{series:016x}")
}

fn open(series: u8, revision: i64) -> SeriesMessage {
    SeriesMessage::Open { series_id: id(series), revision, name: format!("case_{series}"), expected: None }
}

fn closed(series: u8, revision: i64, images: i64) -> SeriesMessage {
    SeriesMessage::Closed { series_id: id(series), revision, images }
}

proptest! {
    #[test]
    fn memory_is_limited_and_what_has_just_come_is_there(steps in steps()) {
        let mut store = Store::new(MOST_BYTES);
        let mut newest = [0i64; 4];
        for step in steps {
            match step {
                Step::Frame(series, revision, index) => {
                    store.on_frame(frame(&id(series), revision, index, SHAPE), &[1.0; PIXELS]).unwrap();
                    newest[series as usize] = newest[series as usize].max(revision);
                    let is_kept = store.slice(&id(series), index).is_some_and(|slice| slice.image.is_some());
                    let known = store.summary().into_iter().find(|one| one.id == id(series)).unwrap();
                    prop_assert!(is_kept || revision < known.revision);
                }
                Step::Mask(series, revision, index, provisional) => {
                    let sent = mask(&id(series), revision, index, SHAPE, provisional);
                    if let Some(slice) = store.on_mask(sent, vec![1; PIXELS]).unwrap() {
                        prop_assert_eq!(slice.mask.unwrap().mask.provisional, provisional);
                        prop_assert_eq!(slice.revision, revision);
                        prop_assert!(store.slice(&id(series), index).is_some());
                    }
                }
                Step::Open(series, revision) => store.on_series(open(series, revision)),
                Step::Closed(series, revision) => store.on_series(closed(series, revision, 8)),
                Step::Failed(series, revision) => store.on_series(SeriesMessage::Failed {
                    series_id: id(series), revision, error: "no volume".into(),
                }),
            }
            prop_assert!(store.bytes() <= MOST_BYTES);
            for one in store.summary() {
                let slices = store.slices(&one.id).unwrap();
                prop_assert!(slices.is_sorted_by(|a, b| a.location <= b.location || b.location.is_none()));
                let count = |state| slices.iter().filter(|slice| slice.mask == state).count();
                prop_assert_eq!(one.provisional, count(MaskState::Provisional));
                prop_assert_eq!(one.finals, count(MaskState::Final));
                prop_assert!(one.waiting <= one.images);
            }
        }
    }

    #[test]
    fn a_queue_keeps_the_newest_in_order(pushes in prop::collection::vec(1usize..9, 0..20)) {
        let queue = Queue::default();
        let mut number = 0u8;
        for count in pushes {
            for _ in 0..count {
                number += 1;
                queue.push(Pushed { message: Bytes::from(vec![number]), arrived: None });
            }
            let taken: Vec<u8> = std::iter::from_fn(|| queue.take()).map(|pushed| pushed.message[0]).collect();
            let first = number - count.min(QUEUE) as u8;
            prop_assert_eq!(taken, (first + 1..=number).collect::<Vec<_>>());
        }
    }
}

#[test]
fn finished_series_are_dropped_before_images_of_those_in_progress() {
    let mut store = Store::new(MOST_BYTES);
    for series in [1, 2, 3] {
        store.on_series(open(series, 0));
        for index in 0..2 {
            store.on_frame(frame(&id(series), 0, index, SHAPE), &[1.0; PIXELS]).unwrap();
        }
    }
    // The second is complete; the first began earlier but is in progress.
    for index in 0..2 {
        store.on_mask(mask(&id(2), 0, index, SHAPE, false), vec![0; PIXELS]).unwrap();
    }
    store.on_series(closed(2, 0, 2));
    assert_eq!(store.summary()[1].phase, Phase::Complete);
    let ids = |store: &Store| store.summary().into_iter().map(|one| one.id).collect::<Vec<_>>();
    let mut index = 2;
    while ids(&store).len() == 3 {
        store.on_frame(frame(&id(3), 0, index, SHAPE), &[1.0; PIXELS]).unwrap();
        index += 1;
    }
    assert_eq!(ids(&store), [id(1), id(3)]);
    assert_eq!(store.summary()[0].images, 2, "nothing of the series in progress is dropped yet");
    for index in index..index + 40 {
        store.on_frame(frame(&id(3), 0, index, SHAPE), &[1.0; PIXELS]).unwrap();
    }
    let [first, third] = store.summary().try_into().unwrap();
    assert_eq!((first.images, first.dropped), (0, 2), "the series that began first");
    assert!(third.images > 0 && third.dropped > 0);
}

#[test]
fn a_series_goes_through_its_phases_and_begins_again() {
    let mut store = Store::new(1 << 20);
    let phase = |store: &Store| store.summary()[0].phase;
    store.on_series(open(1, 0));
    assert!(store.on_frame(frame(&id(1), 0, 0, SHAPE), &[1.0; PIXELS]).unwrap().is_some());
    assert_eq!(phase(&store), Phase::Receiving);
    assert!(store.on_mask(mask(&id(1), 0, 0, SHAPE, true), vec![2; PIXELS]).unwrap().is_some());
    // Once there are masks, an image is shown when it has one.
    assert!(store.on_frame(frame(&id(1), 0, 1, SHAPE), &[1.0; PIXELS]).unwrap().is_none());
    assert_eq!((store.summary()[0].waiting, store.summary()[0].waiting_since_ns), (1, Some(1_001)));
    store.on_series(closed(1, 0, 2));
    assert_eq!(phase(&store), Phase::Segmenting);
    for index in [0, 1] {
        store.on_mask(mask(&id(1), 0, index, SHAPE, false), vec![2; PIXELS]).unwrap();
    }
    assert_eq!(phase(&store), Phase::Complete);
    let changes = store.summary()[0].changes;
    store.on_series(open(1, 1));
    assert_eq!((phase(&store), store.slices(&id(1)).unwrap().len()), (Phase::Receiving, 0));
    assert!(store.summary()[0].changes > changes);
    assert!(store.on_mask(mask(&id(1), 0, 0, SHAPE, false), vec![2; PIXELS]).unwrap().is_none(), "of before");
}

#[test]
fn arrays_that_do_not_fit_are_refused_by_name() {
    let mut store = Store::new(MOST_BYTES);
    let length = store.on_frame(frame("a", 0, 0, SHAPE), &[1.0; 3]).unwrap_err();
    assert_eq!(length, StoreError::Length { rows: 16, columns: 12, found: 3 });
    assert!(store.on_mask(mask("a", 0, 0, SHAPE, true), vec![0; PIXELS + 1]).is_err());
    let large = store.on_frame(frame("a", 0, 0, [100, 100]), &[0.0; 10_000]).unwrap_err();
    assert_eq!(large, StoreError::TooLarge { pixels: 10_000 });
    store.on_frame(frame("a", 0, 0, SHAPE), &[1.0; PIXELS]).unwrap();
    let shape = store.on_mask(mask("a", 0, 0, [12, 16], true), vec![0; PIXELS]).unwrap_err();
    assert_eq!(shape, StoreError::Shape { mask: [12, 16], image: [16, 12] });
}

#[test]
fn pages_have_a_limited_number_of_places() {
    let viewers = Arc::new(Viewers::new(2));
    let (first, _second) = (viewers.enter().unwrap(), viewers.enter().unwrap());
    assert!(viewers.enter().is_none());
    drop(first);
    let third = viewers.enter().unwrap();
    viewers.push(&Pushed { message: Bytes::from_static(b"a"), arrived: None });
    assert_eq!(third.queue.take().unwrap().message, "a");
    assert_eq!(viewers.count(), 2);
}
