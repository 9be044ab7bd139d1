//! Neck of the image encoders (`neck` in `segment_anything/modeling/image_encoder.py`; TinyViT's is the same).

use tch::Tensor;
use tch::nn::{self, Module};

use super::common::same_conv;
use crate::network::layers::LayerNorm2d;

/// Two convolutions that convert the tokens to the decoder's number of channels.
#[derive(Debug)]
pub(super) struct Neck {
    project: nn::Conv2D,
    project_norm: LayerNorm2d,
    smooth: nn::Conv2D,
    smooth_norm: LayerNorm2d,
}

impl Neck {
    pub(super) fn new(vs: &nn::Path, channels: i64, out_channels: i64) -> Self {
        Self {
            project: same_conv(vs / 0, channels, out_channels, 1),
            project_norm: LayerNorm2d::new(&(vs / 1), out_channels),
            smooth: same_conv(vs / 2, out_channels, out_channels, 3),
            smooth_norm: LayerNorm2d::new(&(vs / 3), out_channels),
        }
    }

    /// `[B, C, h, w]` to `[B, 256, h, w]`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let projected = self.project_norm.forward(&self.project.forward(x));
        self.smooth_norm.forward(&self.smooth.forward(&projected))
    }
}
