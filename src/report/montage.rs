//! Pictures of a segmented case: slices in grey with the outlines of the classes in colour; with the truth, if
//! known, beside the prediction.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType as PngFilter, PngEncoder};
use image::imageops;
use image::{ExtendedColorType, ImageEncoder as _, Rgb, RgbImage};
use ndarray::{ArrayView3, Axis};

use super::ReportError;
use super::montage_input::{MontageConfig, MontageInput};
use super::view::View;

/// One slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Index along z.
    pub slice: usize,
    /// The prediction; or, if the truth is known, the truth at the left and the prediction at the right.
    pub picture: RgbImage,
}

impl Panel {
    /// The picture as PNG in base64, for a `data:image/png;base64,` URL.
    ///
    /// # Errors
    /// [`ReportError::Png`].
    pub fn png_base64(&self) -> Result<String, ReportError> {
        let mut png = Vec::new();
        let (width, height) = self.picture.dimensions();
        PngEncoder::new_with_quality(&mut png, CompressionType::Best, PngFilter::Adaptive)
            .write_image(self.picture.as_raw(), width, height, ExtendedColorType::Rgb8)
            .map_err(|source| ReportError::Png { source })?;
        Ok(STANDARD.encode(png))
    }
}

/// Pictures of a case, in ascending order of slices.
#[derive(Debug, Clone, PartialEq)]
pub struct Montage {
    /// The slices.
    pub panels: Vec<Panel>,
    /// Whether each picture has the truth at its left.
    pub has_truth: bool,
}

/// Pixels between truth and prediction.
const GAP: u32 = 4;
/// Most voxels sampled to find the grey levels.
const MAX_SAMPLES: usize = 1 << 20;

impl Montage {
    /// Draws up to `config.slices` slices, spread evenly over the slices that contain a class, or over all slices if
    /// none does.
    ///
    /// # Errors
    /// [`ReportError::Shape`] and [`ReportError::Grid`].
    pub fn new(input: &MontageInput<'_>, config: &MontageConfig) -> Result<Self, ReportError> {
        input.check()?;
        let view = View::new(input, config);
        let [black, white] = grey_window(input.image, config.clipped_percent);
        let panels = input
            .slices(config.slices)
            .into_iter()
            .map(|slice| {
                let grey = view.grey(input.image.index_axis(Axis(0), slice), [black, white]);
                let draw = |labels: ArrayView3<'_, u8>| view.draw(&grey, labels.index_axis(Axis(0), slice));
                let prediction = draw(input.prediction);
                let picture = match input.truth {
                    Some(truth) => side_by_side(&draw(truth), &prediction),
                    None => prediction,
                };
                Panel { slice, picture }
            })
            .collect();
        Ok(Self { panels, has_truth: input.truth.is_some() })
    }
}

/// The intensities shown as black and as white.
fn grey_window(image: ArrayView3<'_, f32>, clipped_percent: f64) -> [f32; 2] {
    let step = image.len().div_ceil(MAX_SAMPLES);
    let mut values: Vec<f32> =
        image.iter().step_by(step).copied().filter(|value| value.is_finite()).collect();
    if values.is_empty() {
        return [0.0, 1.0];
    }
    let last = (values.len() - 1) as f64;
    [clipped_percent, 100.0 - clipped_percent].map(|percent| {
        let rank = (percent / 100.0 * last).round() as usize;
        *values.select_nth_unstable_by(rank, f32::total_cmp).1
    })
}

fn side_by_side(left: &RgbImage, right: &RgbImage) -> RgbImage {
    let (width, height) = left.dimensions();
    let mut both = RgbImage::from_pixel(2 * width + GAP, height, Rgb([255; 3]));
    imageops::replace(&mut both, left, 0, 0);
    imageops::replace(&mut both, right, i64::from(width + GAP), 0);
    both
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;

    fn volume(shape: [usize; 3]) -> Array3<f32> {
        Array3::from_shape_fn(shape, |(z, y, x)| (z * 1000 + y * 10 + x) as f32)
    }

    fn input<'a>(image: &'a Array3<f32>, prediction: &'a Array3<u8>) -> MontageInput<'a> {
        MontageInput {
            image: image.view(),
            prediction: prediction.view(),
            truth: None,
            spacing_mm: [5.0, 1.0, 1.0],
        }
    }

    fn slices(montage: &Montage) -> Vec<usize> {
        montage.panels.iter().map(|panel| panel.slice).collect()
    }

    #[test]
    fn slices_are_spread_over_those_with_a_class_in_prediction_or_truth() {
        let image = volume([30, 6, 6]);
        let mut prediction = Array3::<u8>::zeros([30, 6, 6]);
        prediction.slice_mut(s![4..14, 2, 2]).fill(1);
        let mut truth = Array3::<u8>::zeros([30, 6, 6]);
        truth.slice_mut(s![10..19, 3, 3]).fill(2);
        let input = MontageInput { truth: Some(truth.view()), ..input(&image, &prediction) };
        let montage = Montage::new(&input, &MontageConfig::default()).unwrap();
        assert_eq!(slices(&montage), [4, 6, 8, 10, 12, 14, 16, 18]);
        assert!(montage.has_truth);
    }

    #[test]
    fn slices_are_spread_over_all_where_there_is_no_class() {
        let (image, prediction) = (volume([5, 6, 6]), Array3::zeros([5, 6, 6]));
        let montage = |slices| {
            Montage::new(&input(&image, &prediction), &MontageConfig { slices, ..Default::default() })
                .unwrap()
        };
        assert_eq!(slices(&montage(8)), [0, 1, 2, 3, 4]);
        assert_eq!(slices(&montage(3)), [0, 2, 4]);
        assert_eq!(slices(&montage(1)), [2]);
        assert_eq!(slices(&montage(0)), [0; 0]);
    }

    #[test]
    fn truth_and_prediction_are_drawn_side_by_side() {
        let image = volume([1, 20, 20]);
        let mut prediction = Array3::<u8>::zeros([1, 20, 20]);
        prediction.slice_mut(s![0, 5..10, 5..10]).fill(1);
        let truth = Array3::<u8>::zeros([1, 20, 20]);
        let both = MontageInput { truth: Some(truth.view()), ..input(&image, &prediction) };
        let config = MontageConfig::default();
        let alone = Montage::new(&input(&image, &prediction), &config).unwrap().panels.remove(0).picture;
        let both = Montage::new(&both, &config).unwrap().panels.remove(0).picture;
        let (width, height) = alone.dimensions();
        assert_eq!(both.dimensions(), (2 * width + GAP, height));
        let right = imageops::crop_imm(&both, width + GAP, 0, width, height).to_image();
        assert_eq!(right, alone);
        let left = imageops::crop_imm(&both, 0, 0, width, height).to_image();
        assert!(left.pixels().all(|Rgb([r, g, b])| r == g && g == b));
    }

    #[test]
    fn pictures_are_png_in_base64() {
        let (image, prediction) = (volume([1, 9, 9]), Array3::zeros([1, 9, 9]));
        let montage = Montage::new(&input(&image, &prediction), &MontageConfig::default()).unwrap();
        let png = STANDARD.decode(montage.panels[0].png_base64().unwrap()).unwrap();
        let decoded = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
        assert_eq!(decoded.to_rgb8(), montage.panels[0].picture);
    }

    #[test]
    fn black_and_white_leave_out_outliers_and_what_is_not_a_number() {
        let mut image = Array3::from_shape_fn([10, 10, 10], |(z, y, x)| (z * 100 + y * 10 + x) as f32);
        image[[0, 0, 0]] = f32::NAN;
        image[[9, 9, 9]] = f32::INFINITY;
        image[[5, 5, 5]] = 1e30;
        let [black, white] = grey_window(image.view(), 1.0);
        assert!((black - 11.0).abs() < 2.0 && (white - 988.0).abs() < 2.0, "{black} {white}");
        let nothing = Array3::from_elem([2, 2, 2], f32::NAN);
        assert_eq!(grey_window(nothing.view(), 1.0), [0.0, 1.0]);
    }

    #[test]
    fn other_grids_and_impossible_ones_are_refused() {
        let image = volume([2, 6, 6]);
        let config = MontageConfig::default();
        let wrong = Array3::zeros([2, 6, 5]);
        let error = Montage::new(&input(&image, &wrong), &config).unwrap_err().to_string();
        assert_eq!(error, "montage: prediction has shape [2, 6, 5], the image [2, 6, 6]");
        let prediction = Array3::zeros([2, 6, 6]);
        let flat = MontageInput { spacing_mm: [1.0, 0.0, 1.0], ..input(&image, &prediction) };
        assert!(matches!(Montage::new(&flat, &config), Err(ReportError::Grid { .. })));
        let (no_image, no_labels) = (volume([0, 6, 6]), Array3::zeros([0, 6, 6]));
        assert!(matches!(
            Montage::new(&input(&no_image, &no_labels), &config),
            Err(ReportError::Grid { .. })
        ));
    }
}
