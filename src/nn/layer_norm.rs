//! Layer normalisation over the channels of `[B, C, H, W]` (`segment_anything/modeling/common.py`).

use tch::Tensor;
use tch::nn::{self, Module};

/// Normalises over C at every pixel, then scales and shifts each channel.
#[derive(Debug)]
pub struct LayerNorm2d {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm2d {
    const EPS: f64 = 1e-6;

    /// For `channels` channels; parameters `weight` and `bias`.
    pub fn new(vs: &nn::Path, channels: i64) -> Self {
        Self { weight: vs.ones("weight", &[channels]), bias: vs.zeros("bias", &[channels]) }
    }
}

impl Module for LayerNorm2d {
    /// `[B, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let channels = x.size()[1];
        x.permute([0, 2, 3, 1])
            .layer_norm([channels], Some(&self.weight), Some(&self.bias), Self::EPS, false)
            .permute([0, 3, 1, 2])
    }
}
