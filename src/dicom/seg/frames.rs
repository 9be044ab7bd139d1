//! Which frames there are, and their pixels: one bit each, without a gap between frames (PS3.5 8.2).

use std::collections::BTreeMap;

use ndarray::{ArrayView2, ArrayView3, Axis};

/// Most bytes of pixels: their length is a number of 32 bits, and even.
const MOST_BYTES: usize = (u32::MAX - 1) as usize;

/// The frames of an object, by segment and then by image.
#[derive(Debug)]
pub(super) struct Frames {
    pub list: Vec<Frame>,
    /// Places of the images that have frames, from 1.
    pub places: BTreeMap<usize, u32>,
}

/// A segment in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame {
    /// Number from 1.
    pub segment: u8,
    /// Index of the image.
    pub image: usize,
}

impl Frames {
    /// The frames that are not empty, or one that is.
    ///
    /// # Errors
    /// A label without a segment, or more pixels than an object can have.
    pub fn new(labels: ArrayView3<u8>, segments: usize) -> Result<Self, String> {
        let mut list = Vec::new();
        for (image, slice) in labels.axis_iter(Axis(2)).enumerate() {
            let mut is_there = [false; 256];
            slice.for_each(|&label| is_there[usize::from(label)] = true);
            let labels = (1..=u8::MAX).filter(|&label| is_there[usize::from(label)]);
            list.extend(labels.map(|segment| Frame { segment, image }));
        }
        list.sort_unstable();
        if let Some(last) = list.last().filter(|frame| usize::from(frame.segment) > segments) {
            return Err(format!("label {} of {segments} segments", last.segment));
        }
        if list.is_empty() {
            list.push(Frame { segment: 1, image: 0 });
        }
        let (columns, rows, _) = labels.dim();
        if (list.len() * rows * columns).div_ceil(8) > MOST_BYTES {
            return Err(format!("{} frames of {rows} × {columns} pixels are too many", list.len()));
        }
        let mut places: BTreeMap<usize, u32> = list.iter().map(|frame| (frame.image, 0)).collect();
        places.values_mut().zip(1..).for_each(|(place, number)| *place = number);
        Ok(Self { list, places })
    }

    /// The pixels of all frames, the first in the lowest bit, with an even number of bytes.
    pub fn bits(&self, labels: ArrayView3<u8>) -> Vec<u8> {
        let (columns, rows, _) = labels.dim();
        let bytes = (self.list.len() * rows * columns).div_ceil(8);
        let mut bits = vec![0; bytes.next_multiple_of(2)];
        for (frame, start) in self.list.iter().zip((0..).step_by(rows * columns)) {
            set_bits(&mut bits, start, labels.index_axis(Axis(2), frame.image), frame.segment);
        }
        bits
    }
}

/// Sets the bits of a frame; `labels` is `[x, y]` with the rows of the image from the last to the first.
fn set_bits(bits: &mut [u8], start: usize, labels: ArrayView2<u8>, segment: u8) {
    let pixels = labels.axis_iter(Axis(1)).rev().flatten();
    for (bit, _) in (start..).zip(pixels).filter(|(_, label)| **label == segment) {
        bits[bit / 8] |= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn frames_follow_each_other_without_a_gap() {
        let mut labels = Array3::zeros((3, 1, 3)); // one row of three pixels in each image
        labels[[0, 0, 0]] = 2;
        labels[[2, 0, 2]] = 2;
        labels[[1, 0, 2]] = 1;
        let frames = Frames::new(labels.view(), 2).unwrap();
        let list: Vec<_> = frames.list.iter().map(|frame| (frame.segment, frame.image)).collect();
        assert_eq!(list, [(1, 2), (2, 0), (2, 2)]);
        assert_eq!(frames.places, BTreeMap::from([(0, 1), (2, 2)]));
        // 010 100 001, the first pixel in the lowest bit; padded to an even number of bytes.
        assert_eq!(frames.bits(labels.view()), [0b0000_1010, 0b0000_0001]);
    }

    #[test]
    fn the_first_row_of_an_image_is_the_last_of_the_volume() {
        let mut labels = Array3::zeros((2, 3, 1));
        labels[[1, 2, 0]] = 1;
        assert_eq!(Frames::new(labels.view(), 1).unwrap().bits(labels.view()), [0b10, 0]);
    }

    #[test]
    fn without_labels_there_is_one_empty_frame() {
        let labels = Array3::zeros((3, 3, 2));
        let frames = Frames::new(labels.view(), 4).unwrap();
        assert_eq!(frames.list, [Frame { segment: 1, image: 0 }]);
        assert_eq!(frames.bits(labels.view()), [0, 0]);
    }

    #[test]
    fn a_label_without_a_segment_is_refused() {
        let labels = Array3::from_elem((2, 2, 2), 3);
        assert_eq!(Frames::new(labels.view(), 2).unwrap_err(), "label 3 of 2 segments");
    }
}
