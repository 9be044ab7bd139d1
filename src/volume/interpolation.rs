//! Interpolation of volumes, at the positions of skimage's `resize(order=1, mode="edge")`. nnU-Net's cubic
//! interpolation of images is not used: linear interpolation never overshoots, and it treats labels and logits
//! alike.

use serde::{Deserialize, Serialize};

use crate::array::{Rounding, Tap, linear_taps, nearest_taps};

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
