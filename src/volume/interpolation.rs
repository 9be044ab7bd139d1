//! Interpolation of volumes, at the positions of skimage's `resize(order=1, mode="edge")`. nnU-Net's cubic
//! interpolation of images is not used: linear interpolation never overshoots, and it treats labels and logits
//! alike.

use serde::{Deserialize, Serialize};

use crate::array::{Rounding, Tap, linear_taps, nearest_taps};

/// Slices are interpolated if the ratio of voxel sizes is at most this (nnU-Net's `ANISO_THRESHOLD`).
const ANISOTROPY: f64 = 3.0;

/// Interpolation along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Linear between the two nearest input samples.
    Linear,
    /// The nearest input sample.
    Nearest,
}

impl Interpolation {
    /// Positions of `output` samples over `input` samples that cover the same length.
    pub(super) fn taps(self, input: usize, output: usize) -> Vec<Tap> {
        match self {
            Self::Linear => linear_taps(input, output, Rounding::Twice),
            Self::Nearest => nearest_taps(input, output),
        }
    }
}

/// Interpolation across slices, from the voxel sizes `[slice, row, column]` of the stored and of the network's grid.
/// nnU-Net's rule: slices are not interpolated if voxels of one of them are more than three times as long as wide.
pub(super) fn across_slices(spacings_mm: impl IntoIterator<Item = [f64; 3]>) -> Interpolation {
    let is_anisotropic = |spacing: [f64; 3]| {
        let shortest = spacing.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = spacing.iter().copied().fold(0.0, f64::max);
        longest > ANISOTROPY * shortest && spacing[0] == longest
    };
    match spacings_mm.into_iter().any(is_anisotropic) {
        true => Interpolation::Nearest,
        false => Interpolation::Linear,
    }
}
