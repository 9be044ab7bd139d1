//! Intensity normalisation of one modality. Statistics are over the whole stored volume, before cropping and
//! resampling (nnU-Net also normalises before it resamples), so that a region of interest does not change what the
//! network sees inside it. Only if a bundle asks for it are statistics taken after cropping.

use rayon::prelude::*;

use crate::bundle::Normalisation;

/// Smallest divisor, so that a constant volume becomes zero and not infinite.
const LEAST_STD: f64 = 1e-8;

/// What a normalisation does to each voxel, once the statistics of a volume are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rescaling {
    /// Clips to a range, then subtracts `mean` and divides by `std`.
    Standard { low: f64, high: f64, mean: f64, std: f64 },
    /// Clips to a range and maps `[first, last]` to `[0, 1]`; voxels with the value `background` become 0.
    Unit { low: f64, high: f64, first: f64, last: f64, background: Option<f32> },
}

/// Normalises all voxels of one modality.
pub fn normalise(voxels: &mut [f32], normalisation: &Normalisation) {
    Rescaling::of(voxels, normalisation).apply(voxels);
}

impl Rescaling {
    /// The rescaling that a normalisation means for these voxels.
    pub fn of(voxels: &[f32], normalisation: &Normalisation) -> Self {
        let everything = (f64::NEG_INFINITY, f64::INFINITY);
        match *normalisation {
            Normalisation::ZScore | Normalisation::ZScoreRegion => {
                let (mean, std) = mean_and_std(voxels);
                let (low, high) = everything;
                Self::Standard { low, high, mean, std: std.max(LEAST_STD) }
            }
            Normalisation::Clip { low, high, mean, std } => {
                Self::Standard { low, high, mean, std: std.max(LEAST_STD) }
            }
            Normalisation::Percentile { low, high } => of_percentiles(voxels, low, high),
            Normalisation::Window { low, high } => {
                Self::Unit { low, high, first: low, last: high, background: None }
            }
        }
    }

    /// Rescales voxels.
    pub fn apply(&self, voxels: &mut [f32]) {
        match *self {
            Self::Standard { low, high, mean, std } => {
                change(voxels, |value| (f64::from(value).max(low).min(high) - mean) / std);
            }
            Self::Unit { low, high, first, last, background } => {
                let scale = scale(first, last);
                let is_background = |value: f32| background == Some(value);
                change(voxels, |value| match is_background(value) {
                    true => 0.0,
                    false => (f64::from(value).max(low).min(high) - first) * scale,
                });
            }
        }
    }
}

/// MedSAM's `pre_MR.py`: clips to percentiles of what is not background, scales to `[0, 1]` by minimum and maximum, and
/// makes the background 0.
fn of_percentiles(voxels: &[f32], low: f64, high: f64) -> Rescaling {
    let background = background(voxels);
    let is_background = |value: f32| background == Some(value);
    let mut foreground: Vec<f32> = voxels.iter().copied().filter(|&value| !is_background(value)).collect();
    if foreground.is_empty() {
        return Rescaling::Unit { low: 0.0, high: 0.0, first: 0.0, last: 0.0, background };
    }
    let [low, high] = [low, high].map(|percent| percentile(&mut foreground, percent) as f32);
    drop(foreground);
    let clipped = |value: f32| value.max(low).min(high);
    let (first, last) = voxels
        .par_iter()
        .map(|&value| (clipped(value), clipped(value)))
        .reduce(|| (f32::INFINITY, f32::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)));
    let [low, high, first, last] = [low, high, first, last].map(f64::from);
    Rescaling::Unit { low, high, first, last, background }
}

/// The value of what lies around the body, if it is a constant.
///
/// MedSAM takes percentiles over `image > 0`, as the images that it knows are nowhere negative and 0 around the body. Here
/// it is the value 0 or the smallest value of the image, whichever more voxels have: air at -1024 HU, a constant offset of
/// the scanner, a normalised image that is 0 around the brain and negative in it. On images that are nowhere negative and
/// 0 somewhere that is MedSAM's. A smallest value other than 0 must be that of one voxel in 20; else there is no constant
/// background, and all voxels count, as with MedSAM.
fn background(voxels: &[f32]) -> Option<f32> {
    const LEAST_SHARE: f64 = 0.05;
    let lowest = voxels.par_iter().copied().reduce(|| f32::INFINITY, f32::min);
    let count = |of: f32| voxels.par_iter().filter(|&&value| value == of).count();
    let (zeros, at_lowest) = (count(0.0), count(lowest));
    let is_constant = at_lowest as f64 >= LEAST_SHARE * voxels.len() as f64;
    if zeros > 0 && zeros >= at_lowest {
        Some(0.0)
    } else if is_constant {
        Some(lowest)
    } else {
        (zeros > 0).then_some(0.0)
    }
}

/// What maps `high - low` to 1; 0 of an empty range.
fn scale(low: f64, high: f64) -> f64 {
    if high > low { 1.0 / (high - low) } else { 0.0 }
}

fn change(voxels: &mut [f32], to: impl Fn(f32) -> f64 + Sync) {
    voxels.par_iter_mut().for_each(|value| *value = to(*value) as f32);
}

/// Mean and population standard deviation. Blocks have a fixed length, so the sums, and with them every voxel, do
/// not depend on the number of threads.
fn mean_and_std(voxels: &[f32]) -> (f64, f64) {
    const BLOCK: usize = 1 << 16;
    let sum_of = |term: &(dyn Fn(f64) -> f64 + Sync)| -> f64 {
        let sums: Vec<f64> = voxels
            .par_chunks(BLOCK)
            .map(|block| block.iter().map(|&value| term(f64::from(value))).sum())
            .collect();
        sums.iter().sum()
    };
    let count = voxels.len().max(1) as f64;
    let mean = sum_of(&|value| value) / count;
    let variance = sum_of(&|value| (value - mean) * (value - mean)) / count;
    (mean, variance.sqrt())
}

/// The percentile with numpy's default method (linear between the two nearest ranks).
fn percentile(values: &mut [f32], percent: f64) -> f64 {
    let rank = (percent / 100.0).clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (_, low, above) = values.select_nth_unstable_by(rank as usize, f32::total_cmp);
    let low = f64::from(*low);
    let high = above.iter().copied().min_by(f32::total_cmp).map_or(low, f64::from);
    low + (high - low) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(voxels: &[f32], normalisation: Normalisation) -> Vec<f32> {
        let mut voxels = voxels.to_vec();
        normalise(&mut voxels, &normalisation);
        voxels
    }

    #[test]
    fn z_score_has_mean_0_and_std_1_and_survives_constants() {
        let voxels = normalised(&[1.0, 2.0, 3.0, 6.0], Normalisation::ZScore);
        let (mean, std) = mean_and_std(&voxels);
        assert!(mean.abs() < 1e-6 && (std - 1.0).abs() < 1e-6);
        assert_eq!(normalised(&[7.0; 5], Normalisation::ZScore), [0.0; 5]);
    }

    #[test]
    fn clip_and_window_use_the_given_numbers() {
        let clip = Normalisation::Clip { low: -100.0, high: 300.0, mean: 50.0, std: 50.0 };
        assert_eq!(normalised(&[-1000.0, 50.0, 900.0], clip), [-3.0, 0.0, 5.0]);
        let window = Normalisation::Window { low: -160.0, high: 240.0 };
        assert_eq!(normalised(&[-500.0, 40.0, 240.0, 900.0], window), [0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn percentile_leaves_zeros_out_and_equals_numpy() {
        let mut values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&mut values, 50.0), 2.5); // numpy.percentile([1, 2, 3, 4], 50)
        assert!((percentile(&mut values, 90.0) - 3.7).abs() < 1e-12);
        let voxels = [0.0, 0.0, 0.0, 10.0, 20.0, 30.0];
        let got = normalised(&voxels, Normalisation::Percentile { low: 0.0, high: 50.0 });
        assert_eq!(got, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        assert_eq!(normalised(&[0.0; 3], Normalisation::Percentile { low: 1.0, high: 99.0 }), [0.0; 3]);
    }

    /// MedSAM's `pre_MR.py` on `[-1024, …, 100, 200, 300]` with the background at 0 and at other values.
    #[test]
    fn percentile_leaves_the_background_out_whatever_its_value() {
        let image = |background: f32, shift: f32| {
            let mut voxels = vec![background; 30];
            voxels.extend((0..10).map(|value| shift + 10.0 * value as f32));
            voxels
        };
        let median_up = || Normalisation::Percentile { low: 10.0, high: 50.0 };
        let expected = normalised(&image(0.0, 100.0), median_up());
        // Of 100, 110, … 190 the percentiles are 109 and 145.
        assert!(
            expected[..31].iter().all(|&value| value == 0.0) && expected[35..] == [1.0; 5],
            "{expected:?}"
        );
        for (background, shift) in [(-1024.0, -900.0), (-1024.0, 100.0), (32.0, 132.0), (-0.8, -0.5)] {
            let got = normalised(&image(background, shift), median_up());
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() < 1e-5, "{background} {shift}: {got} {expected}");
            }
        }
    }

    #[test]
    fn percentile_takes_zeros_around_a_normalised_organ_as_background() {
        let mut voxels = vec![0.0; 20];
        voxels.extend([-2.0, -1.0, 1.0, 2.0]);
        let got = normalised(&voxels, Normalisation::Percentile { low: 0.0, high: 100.0 });
        assert_eq!(got[..20], [0.0; 20]);
        assert_eq!(got[20..], [0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn percentile_counts_all_voxels_where_no_background_is_constant() {
        let voxels: Vec<f32> = (0..=100).map(|value| value as f32 - 50.5).collect();
        let got = normalised(&voxels, Normalisation::Percentile { low: 10.0, high: 90.0 });
        assert_eq!((got[10], got[50], got[90]), (0.0, 0.5, 1.0));
    }
}
