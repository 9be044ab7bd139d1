//! Overlapping windows over a volume, and the weights for blending their results.
//!
//! Positions are nnU-Net's (Isensee et al. 2021, sliding window inference): as many windows as the overlap requires,
//! evenly spaced, the first at the start and the last at the end of the volume.

/// Start positions of windows of `patch` samples over `length` samples.
pub(super) fn starts(length: usize, patch: usize, overlap: f64) -> Vec<usize> {
    if length <= patch {
        return vec![0];
    }
    let way = (length - patch) as f64;
    let step = (patch as f64 * (1.0 - overlap)).max(1.0);
    let steps = (way / step).ceil().max(1.0);
    (0..=steps as usize).map(|index| (way / steps * index as f64).round() as usize).collect()
}

/// Start positions of windows of `patch` samples that cover the part `[start, end)` of `length` samples. A part that fits
/// into one window lies in its middle, or as near to it as the ends allow.
pub(super) fn starts_in([start, end]: [usize; 2], length: usize, patch: usize, overlap: f64) -> Vec<usize> {
    let last = length.saturating_sub(patch);
    if end - start <= patch {
        return vec![(start + end).saturating_sub(patch).div_ceil(2).min(last)];
    }
    starts(end - start, patch, overlap).into_iter().map(|offset| start + offset).collect()
}

/// Weight of each window in each of its samples along one axis: a Gaussian with a standard deviation of an eighth of
/// the patch, divided by the sum over all windows at that sample. Samples that only one window covers have weight 1
/// exactly; samples beyond `length` have weight 0.
pub(super) fn shares(starts: &[usize], length: usize, patch: usize) -> Vec<Vec<f32>> {
    let sigma = patch as f64 / 8.0;
    let centre = (patch as f64 - 1.0) / 2.0;
    let weight = |offset: usize| (-0.5 * ((offset as f64 - centre) / sigma).powi(2)).exp(); // at least e^-8
    let mut totals = vec![0.0; length];
    let mut covers = vec![0; length];
    for &start in starts {
        for offset in 0..patch.min(length - start) {
            totals[start + offset] += weight(offset);
            covers[start + offset] += 1;
        }
    }
    let share = |start: usize, offset: usize| match covers.get(start + offset) {
        None => 0.0,
        Some(1) => 1.0,
        Some(_) => (weight(offset) / totals[start + offset]) as f32,
    };
    starts.iter().map(|&start| (0..patch).map(|offset| share(start, offset)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn starts_are_those_of_nnunet() {
        // nnunetv2.inference.sliding_window_prediction.compute_steps_for_sliding_window, step 0.5
        assert_eq!(starts(110, 64, 0.5), [0, 23, 46]);
        assert_eq!(starts(128, 64, 0.5), [0, 32, 64]);
        assert_eq!(starts(10, 16, 0.5), [0]);
    }

    proptest! {
        #[test]
        fn windows_cover_the_part_and_stay_inside(
            length in 1usize..200, patch in 1usize..70, overlap in 0.0f64..0.95, ends in [0usize..200, 0usize..200],
        ) {
            let [first, last] = ends.map(|end| end.min(length - 1));
            let part = [first.min(last), first.max(last) + 1];
            let found = starts_in(part, length, patch, overlap);
            prop_assert!(found[0] <= part[0] && found[found.len() - 1] + patch >= part[1]);
            prop_assert!(found[found.len() - 1] <= length.saturating_sub(patch));
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= patch));
            prop_assert_eq!(starts_in([0, length], length, patch, overlap), starts(length, patch, overlap));
            let narrow = part[1] - part[0] <= patch;
            prop_assert!(!narrow || found.len() == 1);
        }

        #[test]
        fn windows_cover_everything_and_shares_sum_to_one(
            length in 1usize..200, patch in 1usize..70, overlap in 0.0f64..0.95,
        ) {
            let starts = starts(length, patch, overlap);
            prop_assert_eq!(starts[0], 0);
            prop_assert_eq!(starts[starts.len() - 1], length.saturating_sub(patch));
            prop_assert!(starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= patch));
            let shares = shares(&starts, length, patch);
            for sample in 0..length {
                let sum: f32 = starts.iter().zip(&shares)
                    .filter(|(start, _)| (**start..**start + patch).contains(&sample))
                    .map(|(start, shares)| shares[sample - start])
                    .sum();
                prop_assert!((sum - 1.0).abs() < 1e-5, "sample {} has {}", sample, sum);
            }
        }
    }
}
