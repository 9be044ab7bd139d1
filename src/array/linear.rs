//! Linear interpolation between the samples of regular grids with half-pixel centres, one axis at a time.

use rayon::prelude::*;

/// The inputs of an output sample: `(1 - weight) · input[low] + weight · input[high]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    /// Index of the sample before the position.
    pub low: usize,
    /// Index of the sample after the position.
    pub high: usize,
    /// Weight of the sample after the position.
    pub weight: f32,
}

/// How the position of an output sample is rounded in f32. torch's `interpolate(mode="bilinear",
/// align_corners=False)` uses either, depending on the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// After the multiplication and again after the subtraction.
    Twice,
    /// Once, as by a fused multiply-add. `Twice` differs from it by up to 2e-5 for logits of 20.
    Once,
}

/// Taps of `output` samples on `input` samples that cover the same length.
pub fn linear_taps(input: usize, output: usize, rounding: Rounding) -> Vec<Tap> {
    let (scale, last) = (input as f32 / output as f32, input.saturating_sub(1));
    let tap = |index: usize| {
        let centre = index as f32 + 0.5;
        let position = match rounding {
            Rounding::Twice => scale * centre - 0.5,
            Rounding::Once => centre.mul_add(scale, -0.5),
        };
        let position = position.max(0.0);
        let low = (position as usize).min(last);
        let weight = (position - low as f32).clamp(0.0, 1.0);
        let high = if weight == 0.0 { low } else { (low + 1).min(last) };
        Tap { low, high, weight }
    };
    (0..output).map(tap).collect()
}

/// The nearest of `input` samples for each of `output` samples that cover the same length.
pub fn nearest_taps(input: usize, output: usize) -> Vec<Tap> {
    let nearest = |index: usize| ((2 * index + 1) * input / (2 * output)).min(input.saturating_sub(1));
    (0..output).map(nearest).map(|low| Tap { low, high: low, weight: 0.0 }).collect()
}

/// Whether the taps copy sample `start + i` to sample `i`.
pub fn is_copy(taps: &[Tap]) -> bool {
    taps.windows(2).all(|pair| pair[1].low == pair[0].low + 1) && taps.iter().all(|tap| tap.weight == 0.0)
}

/// Writes `(1 - weight) · low + weight · high`, sample by sample, to `out`.
pub fn mix(low: &[f32], high: &[f32], weight: f32, out: &mut [f32]) {
    if weight == 0.0 {
        out.copy_from_slice(low);
    } else {
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = low * (1.0 - weight) + high * weight;
        }
    }
}

/// Resamples one row.
pub fn resample_row(row: &[f32], taps: &[Tap], out: &mut [f32]) {
    for (out, tap) in out.iter_mut().zip(taps) {
        *out = match tap.weight {
            0.0 => row[tap.low], // also where the next sample is infinite
            weight => row[tap.low] * (1.0 - weight) + row[tap.high] * weight,
        };
    }
}

/// Resamples a plane of rows of length `width` into the upper left of `out`, whose rows have length `stride`.
pub fn resample_plane(
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
        let all = [Rounding::Once, Rounding::Twice].map(|rounding| linear_taps(1000, 1000, rounding));
        for taps in all.into_iter().chain([nearest_taps(1000, 1000)]) {
            assert!(is_copy(&taps));
            assert!(taps.iter().enumerate().all(|(index, tap)| tap.low == index));
        }
    }

    #[test]
    fn doubling_takes_quarters() {
        let mut out = [0.0; 6];
        resample_row(&[0.0, 4.0, 8.0], &linear_taps(3, 6, Rounding::Twice), &mut out);
        assert_eq!(out, [0.0, 1.0, 3.0, 5.0, 7.0, 8.0]);
        let nearest: Vec<_> = nearest_taps(3, 6).iter().map(|tap| tap.low).collect();
        assert_eq!(nearest, [0, 0, 1, 1, 2, 2]);
    }
}
