//! The newest image with the outlines of its classes, as an RGB picture for other programs.

use std::collections::VecDeque;

use super::picture::Picture;
use super::window::RunningWindow;
use crate::message::live::{Frame, Mask};
use crate::report::class_colour;

/// Most bytes of images that wait for their masks.
const MOST_BYTES: usize = 128 << 20;
/// Series whose grey window is remembered.
const MOST_SERIES: usize = 64;

/// A picture: 8 bits for red, green and blue of each pixel, row by row from the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbPicture {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// The newest images, until their masks come.
#[derive(Debug, Default)]
pub struct Overlays {
    /// Oldest first.
    images: VecDeque<Waiting>,
    bytes: usize,
    /// Grey windows of series, that of the newest image last.
    windows: VecDeque<(String, RunningWindow)>,
}

#[derive(Debug)]
struct Waiting {
    series_id: String,
    revision: i64,
    index: i64,
    picture: Picture,
}

impl Overlays {
    /// Keeps an image, with its intensities row by row. One whose size contradicts its metadata is left out, and one that is
    /// there already.
    pub fn on_frame(&mut self, frame: &Frame, pixels: &[f32]) {
        let Frame { series_id, revision, index, placement, .. } = frame;
        let Some(picture) = Picture::new(placement.rows, placement.columns, pixels) else { return };
        if self.picture(series_id, *revision, *index).is_some() {
            return;
        }
        let known = self.windows.iter().position(|(known, _)| known == series_id);
        let known = known.and_then(|place| self.windows.remove(place));
        let (_, mut window) = known.unwrap_or_else(|| (series_id.clone(), RunningWindow::default()));
        window.add(pixels);
        self.windows.push_back((series_id.clone(), window));
        self.windows.drain(..self.windows.len().saturating_sub(MOST_SERIES));
        self.bytes += Picture::bytes(pixels.len());
        let (series_id, revision, index) = (series_id.clone(), *revision, *index);
        self.images.push_back(Waiting { series_id, revision, index, picture });
        while self.bytes > MOST_BYTES
            && let Some(oldest) = self.images.pop_front()
        {
            self.bytes -= Picture::bytes(oldest.picture.rows * oldest.picture.columns);
        }
    }

    /// The image of a mask with the outlines of its classes (`pixels`: class of each pixel, row by row). `None` if the image
    /// is no longer there, or has another size.
    pub fn draw(&self, mask: &Mask, pixels: &[u8]) -> Option<RgbPicture> {
        let picture = self.picture(&mask.series_id, mask.revision, mask.index)?;
        let window = self.windows.iter().find(|(series_id, _)| *series_id == mask.series_id)?.1.range();
        if mask.shape != [picture.rows as i64, picture.columns as i64]
            || pixels.len() != picture.rows * picture.columns
        {
            return None;
        }
        let grey = picture.windowed(window).enumerate();
        let coloured = grey.flat_map(|(at, grey)| outline(pixels, picture.columns, at).unwrap_or([grey; 3]));
        Some(RgbPicture { width: picture.columns, height: picture.rows, pixels: coloured.collect() })
    }

    fn picture(&self, series_id: &str, revision: i64, index: i64) -> Option<&Picture> {
        let is_it = |image: &&Waiting| {
            image.index == index && image.revision == revision && image.series_id == series_id
        };
        self.images.iter().rev().find(is_it).map(|image| &image.picture)
    }
}

/// The colour of a pixel on an outline: its class is next to the background, to a class with a lower number, or to the edge.
fn outline(classes: &[u8], columns: usize, at: usize) -> Option<[u8; 3]> {
    let own = classes[at];
    let (rows, row, column) = (classes.len() / columns, at / columns, at % columns);
    let is_below = |is_inside: bool, other: usize| !is_inside || classes[other] < own;
    let is_border = is_below(column > 0, at.wrapping_sub(1))
        || is_below(column + 1 < columns, at + 1)
        || is_below(row > 0, at.wrapping_sub(columns))
        || is_below(row + 1 < rows, at + columns);
    class_colour(own.into()).filter(|_| is_border)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::Placement;

    const ONE: [u8; 3] = [0xE6, 0x9F, 0x00];
    const TWO: [u8; 3] = [0x56, 0xB4, 0xE9];

    fn frame(index: i64, rows: usize, columns: usize) -> Frame {
        let placement = Placement { rows, columns, ..Placement::default() };
        Frame { series_id: "a".into(), revision: 0, index, received_ns: 0, placement }
    }

    fn mask(index: i64, shape: [i64; 2]) -> Mask {
        let series_id = "a".into();
        Mask {
            series_id,
            revision: 0,
            index,
            provisional: true,
            classes: 3,
            shape,
            received_ns: 0,
            sent_ns: 0,
        }
    }

    #[test]
    fn outlines_have_the_colours_of_their_classes_and_the_rest_is_grey() {
        let mut overlays = Overlays::default();
        // Black left of the middle, white right of it.
        let pixels: Vec<f32> = (0..48).map(|at| if at % 8 < 4 { -50.0 } else { 950.0 }).collect();
        overlays.on_frame(&frame(3, 6, 8), &pixels);
        #[rustfmt::skip]
        let classes = [
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 1, 1, 1, 2, 0, 0, 0,
            0, 1, 1, 1, 2, 0, 0, 0,
            0, 1, 1, 1, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let drawn = overlays.draw(&mask(3, [6, 8]), &classes).unwrap();
        assert_eq!((drawn.width, drawn.height), (8, 6));
        let found: Vec<[u8; 3]> = drawn.pixels.as_chunks::<3>().0.to_vec();
        for (at, found) in found.iter().enumerate() {
            let expected = match (classes[at], at) {
                (1, 18 | 19) => [0; 3], // inside, and beside the higher class
                (1, _) => ONE,
                (2, _) => TWO,
                _ if at % 8 < 4 => [0; 3],
                _ => [255; 3],
            };
            assert_eq!(*found, expected, "pixel {at}");
        }
    }

    #[test]
    fn there_is_no_picture_of_an_image_that_is_not_there_or_has_another_size() {
        let mut overlays = Overlays::default();
        overlays.on_frame(&frame(0, 2, 3), &[1.0; 6]);
        overlays.on_frame(&frame(1, 2, 3), &[1.0; 5]);
        assert!(overlays.draw(&mask(0, [2, 3]), &[0; 6]).is_some());
        assert!(overlays.draw(&mask(0, [3, 2]), &[0; 6]).is_none());
        assert!(overlays.draw(&mask(0, [2, 3]), &[0; 5]).is_none());
        assert!(overlays.draw(&mask(1, [2, 3]), &[0; 6]).is_none());
        assert!(overlays.draw(&Mask { revision: 1, ..mask(0, [2, 3]) }, &[0; 6]).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut overlays = Overlays::default();
        let pixels = vec![0.5; 1 << 20];
        let count = MOST_BYTES / Picture::bytes(pixels.len());
        for index in 0..count as i64 + 5 {
            overlays.on_frame(&frame(index, 1 << 10, 1 << 10), &pixels);
            overlays.on_frame(&frame(index, 1 << 10, 1 << 10), &pixels);
        }
        assert_eq!((overlays.images.len(), overlays.bytes), (count, MOST_BYTES));
        assert!(overlays.draw(&mask(4, [1 << 10; 2]), &vec![0; 1 << 20]).is_none());
        assert!(overlays.draw(&mask(5, [1 << 10; 2]), &vec![0; 1 << 20]).is_some());
    }
}
