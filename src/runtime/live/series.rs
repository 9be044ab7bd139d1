//! What the loader knows about a series.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::complete::Complete;
use super::image::Image;

/// Id and revision of a series.
pub(super) type Key = (String, i64);

/// A revision of a series.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Name for files, once the source has given it.
    pub name: Option<String>,
    images: BTreeMap<i64, Arc<Image>>,
    /// Bytes of the images.
    bytes: usize,
    /// Images that are in no provisional case yet.
    pub new: BTreeSet<i64>,
    /// Number of images of the complete series.
    pub closed: Option<i64>,
    /// Number of provisional cases that were asked for.
    pub asked: u64,
    /// Whether provisional cases are being made.
    pub is_making: bool,
    /// Provisional cases that are being segmented.
    pub provisional: BTreeSet<String>,
    /// Columns and rows of the last masks.
    pub bounds: Option<[[usize; 2]; 2]>,
    /// Columns and rows of the masks of the provisional cases under way.
    pub next_bounds: Option<[[usize; 2]; 2]>,
    /// Whether the volumes have been asked for.
    pub is_complete: bool,
    /// Volumes that wait to be segmented.
    pub waiting: VecDeque<Complete>,
    /// Cases of the complete series that are not written yet.
    pub unwritten: BTreeSet<String>,
    /// Whether the volumes have been made.
    pub is_divided: bool,
    /// Why cases failed.
    pub errors: Vec<String>,
}

impl Series {
    /// Adds an image; a repeated one changes nothing, nor does one of a series that is complete.
    pub fn add(&mut self, image: Arc<Image>) {
        if self.is_complete {
            return;
        }
        let (index, bytes) = (image.frame.index, size_of_val(&*image.pixels));
        if self.images.insert(index, image).is_none() {
            self.bytes += bytes;
            self.new.insert(index);
        }
    }

    pub fn images(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    /// Whether all images of a series that has ended are here.
    pub fn is_full(&self) -> bool {
        self.closed.is_some_and(|count| self.images.len() as i64 >= count && count > 0)
    }

    /// Memory of the images, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Releases the images, once the volumes are files.
    pub fn release(&mut self) {
        self.bytes = 0;
        self.images.clear();
        self.new.clear();
    }

    /// Whether everything about the series is written.
    pub fn is_done(&self) -> bool {
        self.is_divided && self.waiting.is_empty() && self.unwritten.is_empty()
    }

    /// Takes the foreground of a provisional case into account.
    pub fn saw(&mut self, bounds: Option<[[usize; 2]; 2]>) {
        self.next_bounds = match (self.next_bounds, bounds) {
            (Some(a), Some(b)) => {
                Some([0, 1].map(|axis| [a[axis][0].min(b[axis][0]), a[axis][1].max(b[axis][1])]))
            }
            (a, b) => a.or(b),
        };
    }
}
