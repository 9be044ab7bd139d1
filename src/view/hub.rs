//! What the node has for pages: the series, the pages that watch, and how long masks take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::latency::{Latency, LatencySummary};
use super::series::{SeriesSummary, SliceSummary};
use super::slice::Slice;
use super::store::{Store, StoreError};
use super::viewers::{Pushed, Viewers};
use crate::message::live::{Frame, Mask, SeriesMessage};
use crate::report::class_colour;

/// Most memory for images and masks.
const MOST_BYTES: usize = 512 << 20;
/// Most pages at the same time.
const MOST_VIEWERS: usize = 64;

/// A class as pages show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassSummary {
    pub name: String,
    /// sRGB, `#rrggbb`; `None`: the background.
    pub colour: Option<String>,
}

/// The state of everything, for pages.
#[derive(Debug, Serialize)]
pub struct State {
    kind: &'static str,
    now_ns: i64,
    classes: Vec<ClassSummary>,
    series: Vec<SeriesSummary>,
    latency: LatencySummary,
    viewers: usize,
    /// Images and masks that this node was too slow for.
    lost: usize,
}

/// Tells pages that something has changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signal {
    changes: u64,
    /// Whether the run has ended.
    pub ended: bool,
}

#[derive(Debug)]
struct Inside {
    store: Store,
    classes: Vec<String>,
    latency: Latency,
    lost: usize,
}

/// Shared by the node's event loop and the connections of pages.
#[derive(Debug)]
pub struct Hub {
    inside: Mutex<Inside>,
    signal: watch::Sender<Signal>,
    pub viewers: Arc<Viewers>,
}

impl Hub {
    /// With the names of the classes, background first; more classes are numbered.
    pub fn new(classes: Vec<String>) -> Self {
        let inside = Inside { store: Store::new(MOST_BYTES), classes, latency: Latency::default(), lost: 0 };
        Self {
            inside: Mutex::new(inside),
            signal: watch::Sender::new(Signal::default()),
            viewers: Arc::new(Viewers::new(MOST_VIEWERS)),
        }
    }

    /// A series begins, is complete, or has failed.
    pub fn on_series(&self, message: SeriesMessage) {
        self.lock().store.on_series(message);
        self.changed();
    }

    /// An image `[rows, columns]`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn on_frame(&self, frame: Frame, pixels: &[f32]) -> Result<(), StoreError> {
        let slice = self.lock().store.on_frame(frame, pixels)?;
        self.show(slice, None);
        Ok(())
    }

    /// A mask `[rows, columns]`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn on_mask(&self, mask: Mask, pixels: Vec<u8>) -> Result<(), StoreError> {
        let arrived = Instant::now();
        let slice = {
            let mut inside = self.lock();
            for class in inside.classes.len()..mask.classes.clamp(0, 256) as usize {
                inside.classes.push(if class == 0 { "background".into() } else { format!("class {class}") });
            }
            if mask.provisional {
                let nanoseconds = mask.sent_ns.saturating_sub(mask.received_ns).max(0);
                inside.latency.mask.add(Duration::from_nanos(nanoseconds as u64));
            }
            inside.store.on_mask(mask, pixels)?
        };
        self.show(slice, Some(arrived));
        Ok(())
    }

    /// The transport has dropped messages for this node.
    pub fn on_lost(&self, count: usize) {
        self.lock().lost += count;
        self.changed();
    }

    /// A page has been sent a mask that arrived at that time.
    pub fn on_sent(&self, arrived: Instant) {
        self.lock().latency.page.add(arrived.elapsed());
    }

    /// The run has ended.
    pub fn end(&self) {
        self.signal.send_modify(|signal| signal.ended = true);
    }

    /// Tells of changes, beginning with the present state.
    pub fn signal(&self) -> watch::Receiver<Signal> {
        let mut signal = self.signal.subscribe();
        signal.mark_changed();
        signal
    }

    /// All series.
    pub fn series(&self) -> Vec<SeriesSummary> {
        self.lock().store.summary()
    }

    /// The images of a series; `None` if it is not known.
    pub fn slices(&self, id: &str) -> Option<Vec<SliceSummary>> {
        self.lock().store.slices(id)
    }

    /// An image of a series; `None` if it is not there.
    pub fn slice(&self, id: &str, index: i64) -> Option<Slice> {
        self.lock().store.slice(id, index)
    }

    /// How long masks take.
    pub fn latency(&self) -> LatencySummary {
        self.lock().latency.summary()
    }

    /// The state of everything.
    pub fn state(&self) -> State {
        let viewers = self.viewers.count();
        let inside = self.lock();
        let class = |(class, name): (usize, &String)| ClassSummary {
            name: name.clone(),
            colour: class_colour(class).map(|[r, g, b]| format!("#{r:02x}{g:02x}{b:02x}")),
        };
        State {
            kind: "state",
            now_ns: now_ns(),
            classes: inside.classes.iter().enumerate().map(class).collect(),
            series: inside.store.summary(),
            latency: inside.latency.summary(),
            viewers,
            lost: inside.lost,
        }
    }

    fn show(&self, slice: Option<Slice>, arrived: Option<Instant>) {
        if self.viewers.count() > 0
            && let Some(message) = slice.as_ref().and_then(Slice::encode)
        {
            self.viewers.push(&Pushed { message, arrived });
        }
        self.changed();
    }

    fn changed(&self) {
        self.signal.send_modify(|signal| signal.changes += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
