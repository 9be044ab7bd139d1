//! The sizes that a generator passes through, and the size at which it merges each tap.
//!
//! If the taps form a pyramid (TinyViT), its sizes are used. If all taps have one size (plain ViT), they are spread
//! out: the shallowest is merged at the finest size, each deeper one at half the size of the one before, and the
//! rest at the deepest size.

use crate::network::TapShape;

/// Channels of a generator's levels: `finest` at the finest size, doubled at each halving of the size, at most
/// `widest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// Default 16. At 256 × 256 pixels the generator then costs about a tenth of LiteMedSAM's encoder.
    pub finest: i64,
    /// Default 256.
    pub widest: i64,
}

impl Default for Widths {
    fn default() -> Self {
        Self { finest: 16, widest: 256 }
    }
}

impl Widths {
    /// Channels after `halvings` halvings of the finest size.
    pub(super) fn at(self, halvings: u32) -> i64 {
        let width = 1i64.checked_shl(halvings).and_then(|factor| self.finest.checked_mul(factor));
        width.unwrap_or(self.widest).min(self.widest)
    }
}

/// One step of a generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Number of 2× upsamplings since the deepest tap.
    pub doublings: u32,
    /// The tap that is merged; in the first step, the tap that the generator starts from.
    pub tap: Option<usize>,
}

/// The steps from the deepest tap to the finest size. The finest size is the deepest tap's size times the power of
/// two that comes closest to the longer side of the patch.
pub(super) fn steps(taps: &[TapShape], patch: [i64; 2]) -> Vec<Step> {
    let Some((deepest, shallower)) = taps.split_last() else { return Vec::new() };
    let side = |height: i64, width: i64| height.max(width);
    let doublings_to = |to: i64| {
        let ratio = to as f64 / side(deepest.height, deepest.width) as f64;
        ratio.log2().round().max(0.0) as u32
    };
    let finest = doublings_to(side(patch[0], patch[1]));

    let mut steps = vec![Step { doublings: 0, tap: Some(shallower.len()) }];
    let mut reached = 0;
    for (index, tap) in shallower.iter().enumerate().rev() {
        let own = doublings_to(side(tap.height, tap.width)).min(finest);
        let spread = finest.saturating_sub(index as u32);
        let joins = own.max(spread).max(reached);
        steps.extend((reached + 1..joins).map(|doublings| Step { doublings, tap: None }));
        steps.push(Step { doublings: joins, tap: Some(index) });
        reached = joins;
    }
    steps.extend((reached + 1..=finest).map(|doublings| Step { doublings, tap: None }));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(size: i64) -> TapShape {
        TapShape { channels: 8, height: size, width: size }
    }

    fn joins(sizes: &[i64], patch: [i64; 2]) -> Vec<(u32, Option<usize>)> {
        let taps: Vec<TapShape> = sizes.iter().map(|&size| square(size)).collect();
        steps(&taps, patch).iter().map(|step| (step.doublings, step.tap)).collect()
    }

    #[test]
    fn a_pyramid_is_followed_as_it_is() {
        let lite_medsam = [256, 128, 64, 64, 64];
        let expected = [(0, Some(4)), (0, Some(3)), (0, Some(2)), (1, Some(1)), (2, Some(0))];
        assert_eq!(joins(&lite_medsam, [256, 256]), expected);
        assert_eq!(joins(&lite_medsam, [200, 240]), expected);
    }

    #[test]
    fn taps_of_one_size_are_spread_over_the_sizes() {
        let expected = [(0, Some(4)), (0, Some(3)), (0, Some(2)), (1, Some(1)), (2, Some(0))];
        assert_eq!(joins(&[64; 5], [256, 256]), expected);
        assert_eq!(joins(&[16; 3], [64, 64]), [(0, Some(2)), (1, Some(1)), (2, Some(0))]);
        assert_eq!(joins(&[16; 2], [64, 64]), [(0, Some(1)), (1, None), (2, Some(0))]);
    }

    #[test]
    fn no_size_is_finer_than_the_patch_needs() {
        assert_eq!(
            joins(&[128, 64, 32, 32, 32], [64, 64]),
            [(0, Some(4)), (0, Some(3)), (0, Some(2)), (1, Some(1)), (1, Some(0))]
        );
        assert_eq!(joins(&[64, 64], [32, 32]), [(0, Some(1)), (0, Some(0))]);
    }

    #[test]
    fn a_single_tap_is_doubled_until_the_patch_is_reached() {
        assert_eq!(joins(&[64], [256, 256]), [(0, Some(0)), (1, None), (2, None)]);
    }

    #[test]
    fn widths_double_up_to_the_widest() {
        let widths = Widths { finest: 32, widest: 256 };
        assert_eq!([0, 1, 3, 4, 80].map(|halvings| widths.at(halvings)), [32, 64, 256, 256, 256]);
    }
}
