//! What is known about the delivery of a series.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Unacknowledged images of a series.
const WINDOW: usize = 32;
/// Time after which an image is sent again.
const SEND_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A revision of a series.
#[derive(Debug)]
pub(super) struct Series {
    pub name: String,
    pub revision: i64,
    /// Number of images in the spool.
    pub images: usize,
    /// The first image that was never asked for.
    next: usize,
    again: BTreeSet<usize>,
    decoding: BTreeSet<usize>,
    in_flight: BTreeMap<usize, Instant>,
    acknowledged: BTreeSet<usize>,
    /// Whether nothing was acknowledged in time, so that one image at a time is tried.
    is_stuck: bool,
    /// When the last image came.
    pub changed: Instant,
    /// When the loader was last told of its state.
    pub announced: Instant,
    pub is_closed: bool,
    /// Why it cannot be completed.
    pub error: Option<String>,
}

impl Series {
    pub fn new(name: String, revision: i64, images: usize, now: Instant) -> Self {
        Self {
            name,
            revision,
            images,
            next: 0,
            again: BTreeSet::new(),
            decoding: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            is_stuck: false,
            changed: now,
            announced: now,
            is_closed: false,
            error: None,
        }
    }

    /// Sends everything again, with this revision.
    pub fn restart(&mut self, revision: i64, now: Instant) {
        *self = Self {
            is_closed: self.is_closed,
            error: self.error.take(),
            changed: self.changed,
            ..Self::new(std::mem::take(&mut self.name), revision, self.images, now)
        };
    }

    /// Takes the next image to decode, if the window allows it.
    pub fn take_next(&mut self) -> Option<usize> {
        let window = if self.is_stuck { 1 } else { WINDOW };
        if self.error.is_some() || self.outstanding() >= window {
            return None;
        }
        while let Some(index) = self.again.pop_first() {
            if self.is_wanted(index) {
                self.decoding.insert(index);
                return Some(index);
            }
        }
        while self.next < self.images {
            self.next += 1;
            if self.is_wanted(self.next - 1) {
                self.decoding.insert(self.next - 1);
                return Some(self.next - 1);
            }
        }
        None
    }

    fn is_wanted(&self, index: usize) -> bool {
        !self.acknowledged.contains(&index) && !self.decoding.contains(&index)
    }

    /// Images that are decoded or on their way.
    fn outstanding(&self) -> usize {
        self.decoding.len() + self.in_flight.len()
    }

    /// Images on their way that count towards the limit of all series.
    pub fn credits(&self) -> usize {
        if self.is_stuck { 0 } else { self.outstanding() }
    }

    /// An image is decoded. True if it is to be sent.
    pub fn decoded(&mut self, index: usize) -> bool {
        self.decoding.remove(&index) && !self.acknowledged.contains(&index)
    }

    pub fn sent(&mut self, index: usize, now: Instant) {
        self.in_flight.insert(index, now);
    }

    pub fn acknowledge(&mut self, index: usize) {
        if index < self.images {
            self.is_stuck = false;
            self.in_flight.remove(&index);
            self.acknowledged.insert(index);
        }
    }

    /// Whether the loader has all images.
    pub fn is_delivered(&self) -> bool {
        self.acknowledged.len() == self.images
    }

    /// Notes which images are late.
    pub fn on_time(&mut self, now: Instant) {
        let is_late = |sent: &Instant| now.duration_since(*sent) >= SEND_AGAIN_AFTER;
        let late: Vec<usize> =
            self.in_flight.iter().filter(|(_, sent)| is_late(sent)).map(|(&index, _)| index).collect();
        if !late.is_empty() {
            self.is_stuck = true;
        }
        for index in late {
            self.in_flight.remove(&index);
            self.again.insert(index);
        }
    }
}
