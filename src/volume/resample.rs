//! Resampling of regular grids with half-pixel centres, one axis at a time.
//!
//! Linear positions are those of torch's `interpolate(mode="bilinear", align_corners=False)` without
//! antialiasing, computed in f32 as there; skimage's `resize(order=1, mode="edge")` uses the same ones. nnU-Net's cubic
//! interpolation of images is not done: linear never overshoots, and labels and logits are treated alike.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How samples are taken along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Between the two nearest input samples.
    Linear,
    /// The nearest input sample.
    Nearest,
}

/// Where an output sample lies: `(1 - weight) · input[low] + weight · input[high]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    pub low: usize,
    pub high: usize,
    pub weight: f32,
}

/// Positions of `output` samples over `input` samples that cover the same length.
pub(super) fn taps(input: usize, output: usize, interpolation: Interpolation) -> Vec<Tap> {
    let last = input.saturating_sub(1);
    (0..output)
        .map(|index| match interpolation {
            Interpolation::Linear => {
                let scale = input as f32 / output as f32;
                let position = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
                let low = (position as usize).min(last);
                let weight = (position - low as f32).clamp(0.0, 1.0);
                let high = if weight == 0.0 { low } else { (low + 1).min(last) };
                Tap { low, high, weight }
            }
            Interpolation::Nearest => {
                let nearest = ((2 * index + 1) * input / (2 * output)).min(last);
                Tap { low: nearest, high: nearest, weight: 0.0 }
            }
        })
        .collect()
}

/// Whether the taps copy sample `start + i` to sample `i`.
pub(super) fn is_copy(taps: &[Tap]) -> bool {
    taps.windows(2).all(|pair| pair[1].low == pair[0].low + 1) && taps.iter().all(|tap| tap.weight == 0.0)
}

/// `(1 - weight) · low + weight · high`, sample by sample, into `out`.
pub(super) fn mix(low: &[f32], high: &[f32], weight: f32, out: &mut [f32]) {
    if weight == 0.0 {
        out.copy_from_slice(low);
    } else {
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = low * (1.0 - weight) + high * weight;
        }
    }
}

/// One row at other positions.
pub(super) fn resample_row(row: &[f32], taps: &[Tap], out: &mut [f32]) {
    for (out, tap) in out.iter_mut().zip(taps) {
        *out = match tap.weight {
            0.0 => row[tap.low], // also where the next sample is infinite
            weight => row[tap.low] * (1.0 - weight) + row[tap.high] * weight,
        };
    }
}

/// A plane of `width`-long rows at other positions, into the upper left of `out`, whose rows are `stride` long.
pub(super) fn resample_plane(
    plane: &[f32],
    width: usize,
    rows: &[Tap],
    columns: &[Tap],
    out: &mut [f32],
    stride: usize,
) {
    let row_of = |index: usize| &plane[index * width..(index + 1) * width];
    let copies_columns = is_copy(columns);
    out.par_chunks_mut(stride).zip(rows).for_each_init(
        || vec![0.0; width],
        |mixed, (out, row)| {
            let out = &mut out[..columns.len()];
            mix(row_of(row.low), row_of(row.high), row.weight, mixed);
            match columns.first() {
                Some(first) if copies_columns => {
                    out.copy_from_slice(&mixed[first.low..first.low + columns.len()]);
                }
                _ => resample_row(mixed, columns, out),
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_copy_exactly() {
        for interpolation in [Interpolation::Linear, Interpolation::Nearest] {
            let taps = taps(1000, 1000, interpolation);
            assert!(is_copy(&taps));
            assert!(taps.iter().enumerate().all(|(index, tap)| tap.low == index));
        }
    }

    #[test]
    fn doubling_takes_quarters() {
        let mut out = [0.0; 6];
        resample_row(&[0.0, 4.0, 8.0], &taps(3, 6, Interpolation::Linear), &mut out);
        assert_eq!(out, [0.0, 1.0, 3.0, 5.0, 7.0, 8.0]);
        let nearest: Vec<_> = taps(3, 6, Interpolation::Nearest).iter().map(|tap| tap.low).collect();
        assert_eq!(nearest, [0, 0, 1, 1, 2, 2]);
    }
}
