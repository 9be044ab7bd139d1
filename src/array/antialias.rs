//! Resampling of a plane with antialiasing, as torch's `interpolate(mode="bilinear", antialias=True)`: if the output
//! is coarser than the input, each weight is a triangle that extends by one output sample to either side
//! (`_upsample_bilinear2d_aa`).

use rayon::prelude::*;

/// The input samples of one output sample, with their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    first: usize,
    /// They sum to 1.
    weights: Vec<f32>,
}

/// The blends of `output` samples from `input` samples that cover the same length.
pub fn blends(input: usize, output: usize) -> Vec<Blend> {
    let scale = input as f32 / output as f32;
    let width = scale.max(1.0);
    (0..output)
        .map(|index| {
            let centre = scale * (index as f32 + 0.5);
            let first = (centre - width + 0.5).max(0.0) as usize;
            let end = ((centre + width + 0.5) as usize).min(input);
            let weight = |sample: usize| (1.0 - ((sample as f32 - centre + 0.5) / width).abs()).max(0.0);
            let mut weights: Vec<f32> = (first..end).map(weight).collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
            Blend { first, weights }
        })
        .collect()
}

/// Resamples a plane of rows of length `width` into the upper left of `out`, whose rows have length `stride`.
pub fn blend_plane(
    plane: &[f32],
    width: usize,
    rows: &[Blend],
    columns: &[Blend],
    out: &mut [f32],
    stride: usize,
) {
    out.par_chunks_mut(stride).zip(rows).for_each_init(
        || vec![0.0; width],
        |mixed, (out, row)| {
            mixed.fill(0.0);
            for (sample, weight) in (row.first..).zip(&row.weights) {
                let from = &plane[sample * width..(sample + 1) * width];
                mixed.iter_mut().zip(from).for_each(|(mixed, from)| *mixed += weight * from);
            }
            for (out, column) in out.iter_mut().zip(columns) {
                let from = &mixed[column.first..column.first + column.weights.len()];
                *out = from.iter().zip(&column.weights).map(|(from, weight)| weight * from).sum();
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_takes_the_two_samples_and_their_neighbours() {
        let blends = blends(8, 4);
        assert_eq!(blends[1], Blend { first: 1, weights: vec![0.125, 0.375, 0.375, 0.125] });
        let mut out = [9.0; 3];
        blend_plane(&[1.0, 1.0, 1.0, 1.0], 2, &super::blends(2, 1), &super::blends(2, 2), &mut out, 3);
        assert_eq!(out, [1.0, 1.0, 9.0], "beyond the columns nothing is written");
    }

    #[test]
    fn equal_sizes_copy() {
        for (index, blend) in blends(50, 50).iter().enumerate() {
            let weight_of = |sample: usize| blend.weights.get(sample - blend.first).copied().unwrap_or(0.0);
            assert_eq!(weight_of(index), 1.0);
        }
    }
}
