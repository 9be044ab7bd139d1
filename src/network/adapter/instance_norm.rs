//! Instance normalisation of volumes, as nnU-Net uses it.

use tch::Tensor;
use tch::nn::{self, Module};

/// Normalises each channel of each volume, then scales and shifts the channel.
#[derive(Debug)]
pub(super) struct InstanceNorm {
    weight: Tensor,
    bias: Tensor,
}

impl InstanceNorm {
    const EPS: f64 = 1e-5;

    pub(super) fn new(vs: &nn::Path, channels: i64) -> Self {
        Self { weight: vs.ones("weight", &[channels]), bias: vs.zeros("bias", &[channels]) }
    }
}

impl Module for InstanceNorm {
    /// `[B, C, D, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        x.instance_norm(weight, bias, None, None, true, 0.0, Self::EPS, true)
    }
}
