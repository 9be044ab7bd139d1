//! Layer normalisation of tokens, and of the channels of images (`segment_anything/modeling/common.py`).

use tch::Tensor;
use tch::nn::{self, Module};

use crate::kernel;

/// Normalises over the last dimension, then scales and shifts each channel.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Creates the parameters `weight` and `bias` for `channels` channels.
    pub fn new(vs: &nn::Path, channels: i64, eps: f64) -> Self {
        Self { weight: vs.ones("weight", &[channels]), bias: vs.zeros("bias", &[channels]), eps }
    }

    /// The bias `[C]`, which is the result for zeros.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

impl Module for LayerNorm {
    /// `[…, C]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let Self { weight, bias, eps } = self;
        if kernel::has_layer_norm(x, [weight, bias]) {
            return kernel::layer_norm(x, [weight, bias], *eps);
        }
        x.layer_norm(weight.size(), Some(weight), Some(bias), *eps, false)
    }
}

/// Normalises over C at every pixel of an image.
#[derive(Debug)]
pub struct LayerNorm2d(LayerNorm);

impl LayerNorm2d {
    const EPS: f64 = 1e-6;

    /// Creates the parameters `weight` and `bias` for `channels` channels.
    pub fn new(vs: &nn::Path, channels: i64) -> Self {
        Self(LayerNorm::new(vs, channels, Self::EPS))
    }
}

impl Module for LayerNorm2d {
    /// `[B, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.0.forward(&x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }
}
