//! One series: its images and masks, as far as they are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::picture::Picture;
use super::slice::{Labelled, MaskState, Placed, Slice, location_mm};
use super::window::RunningWindow;

/// Memory of an image or a mask besides its pixels.
const BESIDE_PIXELS: usize = 512;

/// How far a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Images are expected.
    Receiving,
    /// All images are there, but not all final masks.
    Segmenting,
    /// All masks are final.
    Complete,
    /// The series cannot be completed.
    Failed,
}

/// What pages show of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeriesSummary {
    pub id: String,
    pub revision: i64,
    /// Name of the case, if known.
    pub name: Option<String>,
    pub phase: Phase,
    /// Number of images, if the source has said it.
    pub expected: Option<i64>,
    /// Images and masks in memory.
    pub images: usize,
    pub provisional: usize,
    #[serde(rename = "final")]
    pub finals: usize,
    /// Images that are no longer in memory.
    pub dropped: usize,
    /// Images without a mask, and when the first of them arrived (nanoseconds since 1970).
    pub waiting: usize,
    pub waiting_since_ns: Option<i64>,
    /// The image that changed last.
    pub newest: Option<i64>,
    /// Grows with every change.
    pub changes: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// What pages show of an image in the list of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SliceSummary {
    pub index: i64,
    /// Along the normal of the image, mm.
    pub location: Option<f64>,
    pub mask: MaskState,
}

#[derive(Debug, Default)]
struct Parts {
    image: Option<Arc<Placed>>,
    mask: Option<Arc<Labelled>>,
}

impl Parts {
    fn bytes(&self) -> usize {
        let image =
            self.image.as_ref().map(|placed| image_bytes(placed.picture.rows * placed.picture.columns));
        image.unwrap_or(0) + self.mask.as_ref().map_or(0, |labelled| mask_bytes(labelled.pixels.len()))
    }
}

/// Memory of an image of so many pixels.
pub(super) fn image_bytes(pixels: usize) -> usize {
    Picture::bytes(pixels).saturating_add(BESIDE_PIXELS)
}

/// Memory of a mask of so many pixels.
pub(super) fn mask_bytes(pixels: usize) -> usize {
    pixels.saturating_add(BESIDE_PIXELS)
}

/// A series in one of its revisions.
#[derive(Debug)]
pub(super) struct Series {
    pub id: String,
    pub revision: i64,
    pub name: Option<String>,
    pub expected: Option<i64>,
    /// Number of images of the complete series.
    pub closed: Option<i64>,
    pub error: Option<String>,
    pub window: RunningWindow,
    slices: BTreeMap<i64, Parts>,
    bytes: usize,
    dropped: usize,
    newest: Option<i64>,
    pub changes: u64,
}

impl Series {
    pub fn new(id: &str, revision: i64) -> Self {
        Self {
            id: id.to_owned(),
            revision,
            name: None,
            expected: None,
            closed: None,
            error: None,
            window: RunningWindow::default(),
            slices: BTreeMap::new(),
            bytes: 0,
            dropped: 0,
            newest: None,
            changes: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an image. A mask of another size that was there belongs to other pixels, and is dropped.
    pub fn set_image(&mut self, index: i64, placed: Placed) {
        let shape = [placed.picture.rows as i64, placed.picture.columns as i64];
        self.change(index, |parts| {
            parts.mask = parts.mask.take().filter(|labelled| labelled.mask.shape == shape);
            parts.image = Some(Arc::new(placed));
        });
    }

    pub fn set_mask(&mut self, index: i64, labelled: Labelled) {
        self.change(index, |parts| parts.mask = Some(Arc::new(labelled)));
    }

    fn change(&mut self, index: i64, change: impl FnOnce(&mut Parts)) {
        let parts = self.slices.entry(index).or_default();
        self.bytes -= parts.bytes();
        change(parts);
        self.bytes += parts.bytes();
        self.newest = Some(index);
        self.changes += 1;
    }

    /// Rows and columns of an image.
    pub fn shape(&self, index: i64) -> Option<[i64; 2]> {
        let placed = self.slices.get(&index)?.image.as_ref()?;
        Some([placed.picture.rows as i64, placed.picture.columns as i64])
    }

    /// Drops the image that came first, except one.
    pub fn drop_first(&mut self, except: i64) -> bool {
        let Some(index) = self.slices.keys().copied().find(|&index| index != except) else { return false };
        if let Some(parts) = self.slices.remove(&index) {
            self.bytes -= parts.bytes();
            self.dropped += 1;
            self.changes += 1;
        }
        true
    }

    pub fn has_masks(&self) -> bool {
        self.slices.values().any(|parts| parts.mask.is_some())
    }

    fn count(&self, state: MaskState) -> usize {
        self.slices.values().filter(|parts| MaskState::of(parts.mask.as_deref()) == state).count()
    }

    pub fn phase(&self) -> Phase {
        if self.error.is_some() {
            Phase::Failed
        } else if self.closed.is_none() {
            Phase::Receiving
        } else if self.count(MaskState::Final) < self.slices.len() {
            Phase::Segmenting
        } else {
            Phase::Complete
        }
    }

    pub fn slice(&self, index: i64) -> Option<Slice> {
        let parts = self.slices.get(&index)?;
        Some(Slice {
            series_id: self.id.clone(),
            revision: self.revision,
            index,
            image: parts.image.clone(),
            mask: parts.mask.clone(),
            window: self.window.range(),
        })
    }

    /// The images by location, then by arrival; those whose image is not there at the end.
    pub fn slices(&self) -> Vec<SliceSummary> {
        let summary = |(&index, parts): (&i64, &Parts)| SliceSummary {
            index,
            location: parts.image.as_ref().map(|placed| location_mm(&placed.placement)),
            mask: MaskState::of(parts.mask.as_deref()),
        };
        let mut slices: Vec<_> = self.slices.iter().map(summary).collect();
        let place = |slice: &SliceSummary| slice.location.unwrap_or(f64::INFINITY);
        slices.sort_by(|a, b| place(a).total_cmp(&place(b)).then(a.index.cmp(&b.index)));
        slices
    }

    pub fn summary(&self) -> SeriesSummary {
        let waiting = || {
            let without_mask = self.slices.values().filter(|parts| parts.mask.is_none());
            without_mask.filter_map(|parts| parts.image.as_ref().map(|placed| placed.received_ns))
        };
        SeriesSummary {
            id: self.id.clone(),
            revision: self.revision,
            name: self.name.clone(),
            phase: self.phase(),
            expected: self.closed.or(self.expected),
            images: self.slices.values().filter(|parts| parts.image.is_some()).count(),
            provisional: self.count(MaskState::Provisional),
            finals: self.count(MaskState::Final),
            dropped: self.dropped,
            waiting: waiting().count(),
            waiting_since_ns: waiting().min(),
            newest: self.newest,
            changes: self.changes,
            error: self.error.clone(),
        }
    }
}
