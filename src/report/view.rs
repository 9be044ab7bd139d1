//! How a slice of a montage is drawn: which part, at which size, and the outlines of the classes.

use std::ops::Range;

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, Rgb, RgbImage};
use ndarray::{ArrayView2, s};

use super::class_colour;
use super::montage_input::{MontageConfig, MontageInput};

/// Minimum margin around the classes, voxels.
const MIN_MARGIN: f64 = 8.0;
/// Grey levels are rounded to multiples of this: no visible difference, but smaller files.
const GREY_STEP: f32 = 4.0;

/// The part of a slice that is shown, and its size.
pub(super) struct View {
    rows: Range<usize>,
    columns: Range<usize>,
    width: u32,
    height: u32,
    /// Thickness of outlines, pixels.
    outline: i64,
}

impl View {
    /// The same view for all slices of a case, so that they can be compared.
    pub(super) fn new(input: &MontageInput<'_>, config: &MontageConfig) -> Self {
        let [rows, columns] = cut(input, config.margin);
        let [_, dy, dx] = input.spacing_mm;
        // With one pixel per voxel along the finer axis, pixels are square.
        let finest = dy.min(dx);
        let (width, height) = (columns.len() as f64 * dx / finest, rows.len() as f64 * dy / finest);
        let wanted =
            height.clamp(config.min_height.into(), f64::from(config.max_height.max(config.min_height)));
        let zoom = (wanted / height).min(f64::from(config.max_width) / width);
        let pixels = |length: f64| (length * zoom).round().max(1.0) as u32;
        let outline = if zoom >= 1.5 { 2 } else { 1 };
        Self { rows, columns, width: pixels(width), height: pixels(height), outline }
    }

    /// The slice in grey at its display size. Intensities up to `black` are black, from `white` on white.
    pub(super) fn grey(&self, slice: ArrayView2<'_, f32>, [black, white]: [f32; 2]) -> GrayImage {
        let scale = if white > black { 255.0 / (white - black) } else { 0.0 };
        let level = |value: f32| {
            let level = ((value - black) * scale).clamp(0.0, 255.0);
            if level.is_nan() { 0 } else { level as u8 }
        };
        let slice = slice.slice(s![self.rows.clone(), self.columns.clone()]);
        let grey = GrayImage::from_fn(self.columns.len() as u32, self.rows.len() as u32, |x, y| {
            Luma([level(slice[[y as usize, x as usize]])])
        });
        let mut grey = imageops::resize(&grey, self.width, self.height, FilterType::Triangle);
        for Luma([level]) in grey.pixels_mut() {
            *level = ((f32::from(*level) / GREY_STEP).round() * GREY_STEP).min(255.0) as u8;
        }
        grey
    }

    /// The grey slice with outlines. An outline consists of the pixels of a class that are at most `outline` pixels
    /// from the background or a class with a lower number. Two neighbouring classes thus share one line, in the
    /// colour of the higher class.
    pub(super) fn draw(&self, grey: &GrayImage, labels: ArrayView2<'_, u8>) -> RgbImage {
        let nearest = |pixel: i64, pixels: u32, voxels: &Range<usize>| {
            voxels.start + (pixel as usize * 2 + 1) * voxels.len() / (2 * pixels as usize)
        };
        let class = |x: i64, y: i64| {
            let inside = (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y);
            inside
                .then(|| labels[[nearest(y, self.height, &self.rows), nearest(x, self.width, &self.columns)]])
        };
        RgbImage::from_fn(self.width, self.height, |x, y| {
            let Luma([level]) = *grey.get_pixel(x, y);
            let (x, y) = (i64::from(x), i64::from(y));
            let own = class(x, y);
            let is_border = || {
                (1..=self.outline).any(|step| {
                    let neighbours = [(step, 0), (-step, 0), (0, step), (0, -step)];
                    neighbours.into_iter().any(|(dx, dy)| class(x + dx, y + dy) < own)
                })
            };
            match own.and_then(|class| class_colour(class.into())) {
                Some(colour) if is_border() => Rgb(colour),
                _ => Rgb([level; 3]),
            }
        })
    }
}

/// The rows and columns that contain every class of every slice, plus a margin; all of them if there are no classes.
fn cut(input: &MontageInput<'_>, margin: Option<f64>) -> [Range<usize>; 2] {
    let (_, height, width) = input.image.dim();
    let whole = [0..height, 0..width];
    let Some(margin) = margin else { return whole };
    let mut found: Option<[[usize; 2]; 2]> = None;
    for labels in input.label_volumes() {
        for ((_, y, x), _) in labels.indexed_iter().filter(|&(_, &label)| label != 0) {
            let [[y0, y1], [x0, x1]] = found.get_or_insert([[y, y], [x, x]]);
            (*y0, *y1) = ((*y0).min(y), (*y1).max(y));
            (*x0, *x1) = ((*x0).min(x), (*x1).max(x));
        }
    }
    let Some([rows, columns]) = found else { return whole };
    let widen = |[first, last]: [usize; 2], end: usize| {
        let around = ((last - first + 1) as f64 * margin).max(MIN_MARGIN) as usize;
        first.saturating_sub(around)..(last + 1 + around).min(end)
    };
    [widen(rows, height), widen(columns, width)]
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Array3, Axis};
    use proptest::prelude::*;

    use super::*;

    const WHOLE: MontageConfig = MontageConfig {
        slices: 8,
        min_height: 1,
        max_height: u32::MAX,
        max_width: u32::MAX,
        clipped_percent: 1.0,
        margin: None,
    };

    fn view(labels: &Array3<u8>, spacing_mm: [f64; 3], config: &MontageConfig) -> View {
        let image = Array3::zeros(labels.dim());
        let input = MontageInput { image: image.view(), prediction: labels.view(), truth: None, spacing_mm };
        View::new(&input, config)
    }

    fn drawn(view: &View, labels: &Array3<u8>) -> RgbImage {
        let grey = GrayImage::from_pixel(view.width, view.height, Luma([100]));
        view.draw(&grey, labels.index_axis(Axis(0), 0))
    }

    fn is_on_a_border(labels: &Array2<u8>, y: usize, x: usize) -> bool {
        let at = |dy: isize, dx: isize| {
            let (y, x) = (y.checked_add_signed(dy)?, x.checked_add_signed(dx)?);
            labels.get([y, x]).copied()
        };
        [(1, 0), (-1, 0), (0, 1), (0, -1)].iter().any(|&(dy, dx)| at(dy, dx).unwrap_or(0) < labels[[y, x]])
    }

    proptest! {
        #[test]
        fn outlines_lie_on_class_borders_and_nowhere_else(
            labels in prop::collection::vec(0u8..4, 7 * 9),
        ) {
            let labels = Array3::from_shape_vec([1, 7, 9], labels).unwrap();
            let view = view(&labels, [1.0; 3], &WHOLE);
            let picture = drawn(&view, &labels);
            let slice = labels.index_axis(Axis(0), 0).to_owned();
            for ((y, x), &label) in slice.indexed_iter() {
                let expected = class_colour(label.into())
                    .filter(|_| is_on_a_border(&slice, y, x))
                    .unwrap_or([100; 3]);
                prop_assert_eq!(picture.get_pixel(x as u32, y as u32).0, expected);
            }
        }
    }

    #[test]
    fn enlarged_outlines_stay_inside_their_class() {
        let mut labels = Array3::<u8>::zeros([1, 12, 12]);
        labels.slice_mut(s![0, 3..9, 4..8]).fill(3);
        let config = MontageConfig { min_height: 120, ..WHOLE };
        let view = view(&labels, [1.0; 3], &config);
        let picture = drawn(&view, &labels);
        let colour = class_colour(3).unwrap();
        for (x, y, pixel) in picture.enumerate_pixels() {
            let depth =
                [x as i64 - 40, 79 - x as i64, y as i64 - 30, 89 - y as i64].into_iter().min().unwrap();
            assert_eq!(pixel.0 == colour, (0..2).contains(&depth), "x {x} y {y}");
        }
    }

    #[test]
    fn pictures_have_the_shape_of_the_body() {
        let labels = Array3::zeros([1, 100, 50]);
        let config = MontageConfig { min_height: 192, max_height: 320, max_width: 640, ..WHOLE };
        let size = |spacing| {
            let view = view(&labels, spacing, &config);
            (view.width, view.height)
        };
        assert_eq!(size([9.0, 1.0, 1.0]), (96, 192));
        assert_eq!(size([9.0, 1.0, 2.0]), (192, 192));
        // Voxels three times as high as wide: 300 rows of square pixels, which is within the limits.
        assert_eq!(size([9.0, 3.0, 1.0]), (50, 300));
        assert_eq!(size([9.0, 9.0, 1.0]), (18, 320));
        assert_eq!(size([9.0, 1.0, 90.0]), (640, 14));
    }

    #[test]
    fn pictures_are_cut_around_the_classes() {
        let mut labels = Array3::<u8>::zeros([2, 200, 300]);
        labels.slice_mut(s![0, 100..140, 20..60]).fill(1);
        labels.slice_mut(s![1, 110, 70]).fill(2);
        let config = MontageConfig { margin: Some(0.5), ..WHOLE };
        let view = view(&labels, [1.0; 3], &config);
        assert_eq!((view.rows, view.columns), (80..160, 0..96));
    }
}
