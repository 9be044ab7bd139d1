//! Point prompts: one pixel per class (paper section 3.1 and Figure 3a).
//!
//! The paper chooses the pixel farthest from the mask's border, by the exact Euclidean distance transform
//! ([`squared_distance`]).

use ndarray::{Array2, Array3, ArrayView2, s};

use super::regions::Region;
use crate::array::squared_distance;
use crate::bundle::PointRule;

/// Point `(x, y)` of a region in slice pixel indices. The centre of a box can lie on half indices.
pub fn region_point(region: &Region, rule: PointRule) -> [f32; 2] {
    let Region { bounds, mask } = region;
    let [row, column] = match rule {
        PointRule::DistanceTransform => deepest_pixel(mask.view()),
        PointRule::Random => random_pixel(region),
        PointRule::BoxCentre => {
            return [bounds.x, bounds.y].map(|[first, last]| (first + last) as f32 / 2.0);
        }
    };
    [(bounds.x[0] + column) as f32, (bounds.y[0] + row) as f32]
}

/// `[row, column]` of the pixel farthest from the border of `mask`; the first in row-major order in case of a
/// tie.
fn deepest_pixel(mask: ArrayView2<'_, bool>) -> [usize; 2] {
    let mut deepest = ([0, 0], 0.0);
    for ((row, column), &distance) in squared_distance_to_border(mask).indexed_iter() {
        if distance > deepest.1 {
            deepest = ([row, column], distance);
        }
    }
    deepest.0
}

/// Squared distance (pixels²) of every pixel of `mask` `[H, W]` to the nearest pixel outside the mask; 0 for
/// pixels outside it. Everything beyond the edges of the array counts as outside.
pub fn squared_distance_to_border(mask: ArrayView2<'_, bool>) -> Array2<f64> {
    let (height, width) = mask.dim();
    let outside = Array3::from_shape_fn((1, height + 2, width + 2), |(_, row, column)| {
        !mask.get([row.wrapping_sub(1), column.wrapping_sub(1)]).copied().unwrap_or(false)
    });
    let squared = squared_distance(outside.view(), [1.0; 3]);
    squared.slice(s![0, 1..=height, 1..=width]).to_owned()
}

/// `[row, column]` of a pseudo-random pixel, each equally likely. It depends only on the region.
fn random_pixel(region: &Region) -> [usize; 2] {
    let Region { bounds, mask } = region;
    let pixels: Vec<[usize; 2]> =
        mask.indexed_iter().filter(|&(_, &inside)| inside).map(|((row, column), _)| [row, column]).collect();
    let seed = pixels.iter().fold(mix(bounds.x[0] as u64, bounds.y[0] as u64), |seed, &[row, column]| {
        mix(seed, (row as u64) << 32 | column as u64)
    });
    let index = (u128::from(seed) * pixels.len() as u128) >> u64::BITS;
    pixels.get(index as usize).copied().unwrap_or_default()
}

/// Mixes `value` into `seed` with the finaliser of SplitMix64: same result on every machine and in every
/// release.
fn mix(seed: u64, value: u64) -> u64 {
    let mut bits = seed.wrapping_add(value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equally_deep_pixels_the_first_is_taken() {
        let mask = Array2::from_elem((4, 6), true);
        assert_eq!(deepest_pixel(mask.view()), [1, 1]);
    }

    #[test]
    fn the_edge_of_the_image_is_a_border() {
        let mask = Array2::from_shape_fn((5, 9), |(_, x)| x < 7);
        assert_eq!(squared_distance_to_border(mask.view())[[2, 0]], 1.0);
        assert_eq!(squared_distance_to_border(mask.view())[[2, 3]], 9.0);
        assert_eq!(squared_distance_to_border(mask.view())[[2, 8]], 0.0);
    }
}
