//! Intensity augmentation, one modality `[D, H, W]` at a time (batchgeneratorsv2's `transforms/intensity`,
//! `transforms/noise` and `transforms/spatial/low_resolution.py`).

use ndarray::{Array1, Array3, Array4, ArrayViewMut3, Axis};
use rand::RngExt;
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;

use super::AugmentationConfig;

/// Probability that a blur or a low resolution applies to a modality.
const MODALITY: f64 = 0.5;
/// Smallest divisor.
const LEAST: f32 = 1e-7;

impl AugmentationConfig {
    pub(super) fn change_intensities(&self, images: &mut Array4<f32>, rng: &mut Pcg64) {
        if self.noise.happens(rng) {
            let std = self.noise.uniform(rng) as f32;
            let (_, depth, height, width) = images.dim();
            let noise =
                Array3::from_shape_simple_fn((depth, height, width), || rng.sample::<f32, _>(StandardNormal));
            *images += &(noise * std);
        }
        if self.blur.happens(rng) {
            for image in images.outer_iter_mut() {
                if rng.random_bool(MODALITY) {
                    blur(image, std::array::from_fn(|_| self.blur.uniform(rng)));
                }
            }
        }
        if self.brightness.happens(rng) {
            for mut image in images.outer_iter_mut() {
                image *= self.brightness.factor(rng) as f32;
            }
        }
        if self.contrast.happens(rng) {
            for image in images.outer_iter_mut() {
                contrast(image, self.contrast.factor(rng) as f32);
            }
        }
        if self.low_resolution.happens(rng) {
            for image in images.outer_iter_mut() {
                if rng.random_bool(MODALITY) {
                    let scale = self.low_resolution.uniform(rng);
                    reduce(image, [if self.through_plane { scale } else { 1.0 }, scale, scale]);
                }
            }
        }
        for (chance, inverts) in [(&self.inverted_gamma, true), (&self.gamma, false)] {
            if chance.happens(rng) {
                for image in images.outer_iter_mut() {
                    gamma(image, chance.factor(rng) as f32, inverts);
                }
            }
        }
    }
}

fn mean_and_std(image: &ArrayViewMut3<f32>) -> (f32, f32) {
    let count = image.len().max(1) as f64;
    let mean = image.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let variance = image.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, variance.sqrt() as f32)
}

fn range(image: &ArrayViewMut3<f32>) -> (f32, f32) {
    image.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
}

/// Multiplies the distances from the mean by `factor`, and clips to the previous range.
fn contrast(mut image: ArrayViewMut3<f32>, factor: f32) {
    let ((mean, _), (low, high)) = (mean_and_std(&image), range(&image));
    image.mapv_inplace(|value| ((value - mean) * factor + mean).clamp(low, high));
}

/// Scales intensities to 0 to 1, raises them to the power of `exponent`, and restores the previous range, mean and
/// standard deviation.
fn gamma(mut image: ArrayViewMut3<f32>, exponent: f32, inverts: bool) {
    let sign = if inverts { -1.0 } else { 1.0 };
    image.mapv_inplace(|value| value * sign);
    let ((mean, std), (low, high)) = (mean_and_std(&image), range(&image));
    let extent = (high - low).max(LEAST);
    image.mapv_inplace(|value| ((value - low) / extent).max(0.0).powf(exponent) * extent + low);
    let (new_mean, new_std) = mean_and_std(&image);
    let scale = std / new_std.max(LEAST);
    image.mapv_inplace(|value| ((value - new_mean) * scale + mean) * sign);
}

/// Gaussian blur with a separate standard deviation per axis, borders mirrored.
fn blur(mut image: ArrayViewMut3<f32>, sigmas: [f64; 3]) {
    for (axis, sigma) in sigmas.into_iter().enumerate() {
        let length = image.len_of(Axis(axis));
        if sigma <= 0.0 || length < 2 {
            continue;
        }
        let radius = (4.0 * sigma).ceil() as isize;
        let weights: Vec<f32> =
            (-radius..=radius).map(|step| (-0.5 * (step as f64 / sigma).powi(2)).exp() as f32).collect();
        let sum: f32 = weights.iter().sum();
        let mirrored = |index: isize| {
            let period = 2 * length as isize;
            let index = index.rem_euclid(period);
            if index < length as isize { index as usize } else { (period - 1 - index) as usize }
        };
        for mut lane in image.lanes_mut(Axis(axis)) {
            let blurred: Array1<f32> = (0..length as isize)
                .map(|index| {
                    let terms = (-radius..=radius).zip(&weights);
                    terms.map(|(step, weight)| weight * lane[mirrored(index + step)]).sum::<f32>() / sum
                })
                .collect();
            lane.assign(&blurred);
        }
    }
}

/// Simulates a lower resolution: nearest-neighbour downsampling by `scales`, then linear interpolation back.
fn reduce(mut image: ArrayViewMut3<f32>, scales: [f64; 3]) {
    for (axis, scale) in scales.into_iter().enumerate() {
        let length = image.len_of(Axis(axis));
        let reduced = ((length as f64 * scale).round() as usize).max(1);
        if reduced == length {
            continue;
        }
        let ratio = length as f64 / reduced as f64;
        let nearest = |index: usize| (((index as f64 + 0.5) * ratio) as usize).min(length - 1);
        for mut lane in image.lanes_mut(Axis(axis)) {
            let resized: Array1<f32> = (0..length)
                .map(|index| {
                    let position = ((index as f64 + 0.5) / ratio - 0.5).clamp(0.0, (reduced - 1) as f64);
                    let low = position as usize;
                    let weight = (position - low as f64) as f32;
                    let high = (low + 1).min(reduced - 1);
                    lane[nearest(low)] * (1.0 - weight) + lane[nearest(high)] * weight
                })
                .collect();
            lane.assign(&resized);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn image() -> Array3<f32> {
        let mut rng = Pcg64::seed_from_u64(4);
        Array3::from_shape_simple_fn((4, 12, 10), || rng.sample::<f32, _>(StandardNormal))
    }

    #[test]
    fn gamma_keeps_mean_and_deviation() {
        for inverts in [false, true] {
            let mut changed = image();
            gamma(changed.view_mut(), 1.4, inverts);
            let (before, after) = (mean_and_std(&image().view_mut()), mean_and_std(&changed.view_mut()));
            assert!((before.0 - after.0).abs() < 1e-5 && (before.1 - after.1).abs() < 1e-5);
            assert_ne!(changed, image());
        }
    }

    #[test]
    fn gamma_of_one_and_contrast_of_one_change_nothing() {
        let (mut by_gamma, mut by_contrast) = (image(), image());
        gamma(by_gamma.view_mut(), 1.0, true);
        contrast(by_contrast.view_mut(), 1.0);
        for changed in [by_gamma, by_contrast] {
            assert!((changed - image()).iter().all(|difference| difference.abs() < 1e-5));
        }
    }

    #[test]
    fn contrast_stays_within_the_range() {
        let mut changed = image();
        contrast(changed.view_mut(), 3.0);
        assert_eq!(range(&changed.view_mut()), range(&image().view_mut()));
    }

    #[test]
    fn blur_and_low_resolution_keep_constants_and_take_detail_away() {
        let mut constant = Array3::from_elem((3, 8, 8), 2.5f32);
        blur(constant.view_mut(), [0.7; 3]);
        reduce(constant.view_mut(), [1.0, 0.5, 0.6]);
        assert!(constant.iter().all(|value| (value - 2.5).abs() < 1e-5));
        for change in
            [|i: ArrayViewMut3<f32>| blur(i, [1.0; 3]), |i: ArrayViewMut3<f32>| reduce(i, [1.0, 0.5, 0.5])]
        {
            let mut changed = image();
            change(changed.view_mut());
            assert!(mean_and_std(&changed.view_mut()).1 < mean_and_std(&image().view_mut()).1);
        }
    }
}
