//! Intensity normalisation of one modality, with statistics over the whole stored volume, before cropping and
//! resampling (nnU-Net normalises before it resamples, too), so that a region of interest does not
//! change what the network sees inside it; after cropping only where a bundle asks for it.

use rayon::prelude::*;

use crate::bundle::Normalisation;

/// Least divisor, so that a constant volume becomes zero and not infinite.
const LEAST_STD: f64 = 1e-8;

/// Normalises all voxels of one modality.
pub fn normalise(voxels: &mut [f32], normalisation: &Normalisation) {
    match *normalisation {
        Normalisation::ZScore | Normalisation::ZScoreRegion => {
            let (mean, std) = mean_and_std(voxels);
            let std = std.max(LEAST_STD);
            change(voxels, |value| (value - mean) / std);
        }
        Normalisation::Clip { low, high, mean, std } => {
            let std = std.max(LEAST_STD);
            change(voxels, |value| (value.max(low).min(high) - mean) / std);
        }
        Normalisation::Percentile { low, high } => {
            let mut foreground: Vec<f32> = voxels.iter().copied().filter(|&value| value != 0.0).collect();
            if !foreground.is_empty() {
                let low = percentile(&mut foreground, low);
                let high = percentile(&mut foreground, high);
                drop(foreground);
                change(voxels, |value| value.max(low).min(high));
            }
            let (low, high) = voxels
                .par_iter()
                .map(|&value| (value, value))
                .reduce(|| (f32::INFINITY, f32::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)));
            to_unit_range(voxels, f64::from(low), f64::from(high));
        }
        Normalisation::Window { low, high } => to_unit_range(voxels, low, high),
    }
}

/// Clips to `[low, high]` and maps that to `[0, 1]`; an empty range gives 0.
fn to_unit_range(voxels: &mut [f32], low: f64, high: f64) {
    let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
    change(voxels, |value| (value.max(low).min(high) - low) * scale);
}

fn change(voxels: &mut [f32], to: impl Fn(f64) -> f64 + Sync) {
    voxels.par_iter_mut().for_each(|value| *value = to(f64::from(*value)) as f32);
}

/// Mean and population standard deviation. Blocks have a fixed length, so that the sums, and with them every
/// voxel, do not depend on the number of threads.
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

/// The percentile as numpy's default computes it (linear between the two nearest ranks).
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
}
