//! What the loader knows about a series.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::complete::Complete;
use super::image::Image;

/// Every so many provisional cases of a series look at whole images, for what appears away from the last masks.
const WHOLE_EVERY: u64 = 8;
/// Masks made from fewer images are no guide to where the organ is.
const GUIDING_IMAGES: usize = 4;

/// Id and revision of a series.
pub(super) type Key = (String, i64);

/// A revision of a series.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Place in the order in which series began, in which they are segmented.
    pub place: u64,
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
    /// Number of images when the last provisional case was asked for.
    shown: usize,
    /// Columns and rows of the masks of the last provisional cases.
    pub bounds: Option<[[usize; 2]; 2]>,
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

/// Series in the order in which they began.
pub(super) fn in_order(series: &mut BTreeMap<Key, Series>) -> Vec<(&Key, &mut Series)> {
    let mut all: Vec<_> = series.iter_mut().collect();
    all.sort_by_key(|(_, series)| series.place);
    all
}

impl Series {
    /// A series that begins as the one with this number.
    pub fn new(place: u64) -> Self {
        Self { place, ..Self::default() }
    }

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

    /// Columns and rows in which the next provisional case looks, which is counted as asked for; `None` = everywhere.
    pub fn next_bounds(&mut self) -> Option<[[usize; 2]; 2]> {
        let is_everywhere = self.asked.is_multiple_of(WHOLE_EVERY) || self.shown < GUIDING_IMAGES;
        self.asked += 1;
        self.shown = self.images.len();
        self.bounds.filter(|_| !is_everywhere)
    }

    /// Takes the foreground of a provisional case into account.
    pub fn saw(&mut self, bounds: Option<[[usize; 2]; 2]>) {
        self.bounds = match (self.bounds, bounds) {
            (Some(a), Some(b)) => {
                Some([0, 1].map(|axis| [a[axis][0].min(b[axis][0]), a[axis][1].max(b[axis][1])]))
            }
            (a, b) => a.or(b),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::Placement;
    use crate::message::live::Frame;

    fn image(index: i64) -> Arc<Image> {
        let frame = Frame {
            series_id: "a".into(),
            revision: 0,
            index,
            received_ns: 0,
            placement: Placement::default(),
        };
        Arc::new(Image { frame, arrived_ns: 0, pixels: vec![0.0] })
    }

    #[test]
    fn series_take_their_turn_in_the_order_in_which_they_began() {
        let series = |name: &str, place| ((name.to_owned(), 0), Series::new(place));
        let mut all = BTreeMap::from([series("a", 2), series("b", 0), series("c", 1)]);
        let names: Vec<_> = in_order(&mut all).iter().map(|((name, _), _)| name.clone()).collect();
        assert_eq!(names, ["b", "c", "a"]);
    }

    #[test]
    fn masks_of_a_young_series_are_no_guide() {
        let mut series = Series::default();
        let bounds = Some([[1, 2], [3, 4]]);
        let mut looked = Vec::new();
        for index in 0..10 {
            series.add(image(index));
            looked.push(series.next_bounds().is_some());
            series.bounds = bounds;
        }
        // After the first four images, and every eighth time.
        assert_eq!(looked, [false, false, false, false, true, true, true, true, false, true]);
    }
}
