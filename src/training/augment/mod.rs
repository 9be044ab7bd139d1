//! nnU-Net's augmentation of windows (`nnUNetTrainer.get_training_transforms` and the transforms of the package
//! batchgeneratorsv2, whose probabilities and ranges are the defaults here), in this order: rotation, scaling,
//! Gaussian noise, Gaussian blur, brightness, contrast, simulated low resolution, gamma and mirroring.

mod intensity;
mod spatial;

use ndarray::{Array3, Array4, Axis};
use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

pub use spatial::Placement;

/// The probability of a transform, and the range from which its strength is drawn uniformly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chance {
    /// 0 (never) to 1 (always).
    pub probability: f64,
    /// Lowest and highest value.
    pub range: [f64; 2],
}

impl Chance {
    const fn new(probability: f64, range: [f64; 2]) -> Self {
        Self { probability, range }
    }

    /// Draws whether the transform is applied.
    fn happens(&self, rng: &mut Pcg64) -> bool {
        rng.random_bool(self.probability)
    }

    fn uniform(&self, rng: &mut Pcg64) -> f64 {
        between(self.range, rng)
    }

    /// A factor that is below 1 as often as above (batchgeneratorsv2's `BGContrast`).
    fn factor(&self, rng: &mut Pcg64) -> f64 {
        let [low, high] = self.range;
        if low < 1.0 && rng.random_bool(0.5) {
            between([low, high.min(1.0)], rng)
        } else {
            between([low.max(1.0), high], rng)
        }
    }

    fn check(&self, name: &str, least: f64) -> Result<(), String> {
        let [low, high] = self.range;
        let valid =
            (0.0..=1.0).contains(&self.probability) && low <= high && low >= least && high.is_finite();
        if valid { Ok(()) } else { Err(format!("augmentation.{name}: {self:?} is not possible")) }
    }
}

fn between([low, high]: [f64; 2], rng: &mut Pcg64) -> f64 {
    if low < high { rng.random_range(low..high) } else { low }
}

/// The transforms of a window. The defaults are nnU-Net's for windows whose sides differ by more than a factor of 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentationConfig {
    /// Whether rotation, scaling and low resolution also apply along the slice axis. Default false. nnU-Net does
    /// this if the window's sides differ by at most a factor of 3, and then rotates by -30 to 30 degrees.
    pub through_plane: bool,
    /// Rotation, degrees; about each axis if `through_plane`. Default 0.2, -180 to 180.
    pub rotation: Chance,
    /// Extent shown by the window, relative to its size: above 1 shrinks objects. Default 0.2, 0.7 to 1.4.
    pub scaling: Chance,
    /// Standard deviation of added Gaussian noise, the same noise in all modalities. Default 0.1, 0 to 0.1.
    pub noise: Chance,
    /// Standard deviation of a Gaussian blur, voxels, for each axis; each modality is blurred with probability 0.5.
    /// Default 0.2, 0.5 to 1.
    pub blur: Chance,
    /// Factor for all values of a modality. Default 0.15, 0.75 to 1.25.
    pub brightness: Chance,
    /// Factor for the distances from a modality's mean, clipped to its range. Default 0.15, 0.75 to 1.25.
    pub contrast: Chance,
    /// Resolution to which a modality is reduced before it is restored, as a fraction; each modality with
    /// probability 0.5. Default 0.25, 0.5 to 1.
    pub low_resolution: Chance,
    /// Exponent of inverted intensities scaled to 0 to 1; mean and deviation are kept. Default 0.1, 0.7 to 1.5.
    pub inverted_gamma: Chance,
    /// Exponent of intensities scaled to 0 to 1; mean and deviation are kept. Default 0.3, 0.7 to 1.5.
    pub gamma: Chance,
    /// Whether the slice, row and column axes are mirrored, each with probability 0.5. Default all.
    pub mirror: [bool; 3],
}

impl Default for AugmentationConfig {
    fn default() -> Self {
        Self {
            through_plane: false,
            rotation: Chance::new(0.2, [-180.0, 180.0]),
            scaling: Chance::new(0.2, [0.7, 1.4]),
            noise: Chance::new(0.1, [0.0, 0.1]),
            blur: Chance::new(0.2, [0.5, 1.0]),
            brightness: Chance::new(0.15, [0.75, 1.25]),
            contrast: Chance::new(0.15, [0.75, 1.25]),
            low_resolution: Chance::new(0.25, [0.5, 1.0]),
            inverted_gamma: Chance::new(0.1, [0.7, 1.5]),
            gamma: Chance::new(0.3, [0.7, 1.5]),
            mirror: [true; 3],
        }
    }
}

impl AugmentationConfig {
    /// No augmentation.
    pub fn none() -> Self {
        let never = Chance::new(0.0, [1.0, 1.0]);
        Self {
            through_plane: false,
            rotation: never,
            scaling: never,
            noise: never,
            blur: never,
            brightness: never,
            contrast: never,
            low_resolution: never,
            inverted_gamma: never,
            gamma: never,
            mirror: [false; 3],
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.rotation.check("rotation", f64::MIN)?;
        self.scaling.check("scaling", f64::MIN_POSITIVE)?;
        self.noise.check("noise", 0.0)?;
        self.blur.check("blur", 0.0)?;
        self.brightness.check("brightness", 0.0)?;
        self.contrast.check("contrast", 0.0)?;
        self.low_resolution.check("low_resolution", f64::MIN_POSITIVE)?;
        self.inverted_gamma.check("inverted_gamma", f64::MIN_POSITIVE)?;
        self.gamma.check("gamma", f64::MIN_POSITIVE)?;
        if self.low_resolution.range[1] > 1.0 {
            return Err("augmentation.low_resolution.range must not exceed 1".into());
        }
        Ok(())
    }

    /// Draws rotation and scaling for a window that begins at `start`.
    pub fn place(&self, start: [isize; 3], patch: [usize; 3], rng: &mut Pcg64) -> Placement {
        let degrees: [f64; 3] = match (self.rotation.happens(rng), self.through_plane) {
            (false, _) => [0.0; 3],
            (true, false) => [self.rotation.uniform(rng), 0.0, 0.0],
            (true, true) => std::array::from_fn(|_| self.rotation.uniform(rng)),
        };
        let scale = if self.scaling.happens(rng) { self.scaling.uniform(rng) } else { 1.0 };
        let slice_scale = if self.through_plane { scale } else { 1.0 };
        Placement::new(start, patch, degrees, [slice_scale, scale, scale])
    }

    /// Changes intensities and mirrors the window. `[M, D, H, W]` and `[D, H, W]`.
    pub fn change(&self, images: &mut Array4<f32>, labels: &mut Array3<u8>, rng: &mut Pcg64) {
        self.change_intensities(images, rng);
        self.mirror(images, labels, rng);
    }

    fn mirror(&self, images: &mut Array4<f32>, labels: &mut Array3<u8>, rng: &mut Pcg64) {
        let axes = [0, 1, 2].map(|axis| self.mirror[axis] && rng.random_bool(0.5));
        if axes == [false; 3] {
            return;
        }
        for axis in (0..3).filter(|&axis| axes[axis]) {
            images.invert_axis(Axis(axis + 1));
            labels.invert_axis(Axis(axis));
        }
        *images = images.as_standard_layout().into_owned();
        *labels = labels.as_standard_layout().into_owned();
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn window() -> (Array4<f32>, Array3<u8>) {
        let images =
            Array4::from_shape_fn((2, 3, 6, 5), |(m, z, y, x)| (m * 100 + z * 31 + y * 7 + x) as f32);
        (images, Array3::from_shape_fn((3, 6, 5), |(z, y, x)| ((z + y * 2 + x) % 3) as u8))
    }

    #[test]
    fn mirrored_twice_is_the_window_itself() {
        let config = AugmentationConfig { mirror: [true; 3], ..AugmentationConfig::none() };
        let (images, labels) = window();
        let mut changed = 0;
        for seed in 0..16 {
            let (mut mirrored, mut mirrored_labels) = window();
            for _ in 0..2 {
                config.change(&mut mirrored, &mut mirrored_labels, &mut Pcg64::seed_from_u64(seed));
                changed += usize::from(mirrored != images);
            }
            assert_eq!((&mirrored, &mirrored_labels), (&images, &labels));
        }
        assert!(changed > 8, "something is mirrored");
    }

    #[test]
    fn images_and_labels_are_mirrored_together() {
        let config = AugmentationConfig { mirror: [true; 3], ..AugmentationConfig::none() };
        let (_, mut labels) = window();
        let mut images = labels.mapv(f32::from).insert_axis(Axis(0));
        config.change(&mut images, &mut labels, &mut Pcg64::seed_from_u64(3));
        assert_eq!(images.index_axis(Axis(0), 0), labels.mapv(f32::from));
    }

    #[test]
    fn factors_are_below_one_as_often_as_above() {
        let (chance, mut rng) = (Chance::new(1.0, [0.75, 1.5]), Pcg64::seed_from_u64(1));
        let factors: Vec<f64> = (0..2000).map(|_| chance.factor(&mut rng)).collect();
        let below = factors.iter().filter(|&&factor| factor < 1.0).count();
        assert!((900..1100).contains(&below), "{below}");
        assert!(factors.iter().all(|factor| (0.75..1.5).contains(factor)));
    }

    #[test]
    fn the_same_seed_gives_the_same_window_and_another_another() {
        let config = AugmentationConfig::default();
        let run = |seed| {
            let (mut images, mut labels) = window();
            let mut rng = Pcg64::seed_from_u64(seed);
            (0..8).for_each(|_| config.change(&mut images, &mut labels, &mut rng));
            (images, labels)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).0, run(2).0);
        assert!(run(1).0.iter().all(|value| value.is_finite()));
    }
}
