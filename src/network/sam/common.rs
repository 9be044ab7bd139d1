//! Layers of SAM with PyTorch's default initialisation, and the MLP of its transformer blocks
//! (`segment_anything/modeling/common.py`).

use tch::Tensor;
use tch::nn::{self, Module};

use crate::network::layers::{Linear, gelu};

/// The first N sizes of a tensor.
pub(super) fn dims<const N: usize>(x: &Tensor) -> [i64; N] {
    let size = x.size();
    std::array::from_fn(|dim| size[dim])
}

/// PyTorch's default for weights and biases of linear layers and convolutions; `nn::Init`'s default is wider by √6.
fn uniform(fan_in: i64) -> nn::Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    nn::Init::Uniform { lo: -bound, up: bound }
}

/// A linear layer.
pub(super) fn linear(vs: nn::Path, input: i64, output: i64) -> Linear {
    let config = nn::LinearConfig { ws_init: uniform(input), ..Default::default() };
    nn::linear(vs, input, output, config).into()
}

/// A convolution whose stride equals its kernel.
pub(super) fn patch_conv(vs: nn::Path, input: i64, output: i64, kernel: i64) -> nn::Conv2D {
    let init = uniform(input * kernel * kernel);
    let config = nn::ConvConfig { stride: kernel, ws_init: init, bs_init: init, ..Default::default() };
    nn::conv2d(vs, input, output, kernel, config)
}

/// A convolution without bias that keeps the size.
pub(super) fn same_conv(vs: nn::Path, input: i64, output: i64, kernel: i64) -> nn::Conv2D {
    let config = nn::ConvConfig {
        padding: kernel / 2,
        bias: false,
        ws_init: uniform(input * kernel * kernel),
        ..Default::default()
    };
    nn::conv2d(vs, input, output, kernel, config)
}

/// A transposed convolution that doubles the size.
pub(super) fn upscale_conv(vs: nn::Path, input: i64, output: i64) -> nn::ConvTranspose2D {
    let (kernel, stride) = (2, 2);
    let init = uniform(output * kernel * kernel);
    let config = nn::ConvTransposeConfig { stride, ws_init: init, bs_init: init, ..Default::default() };
    nn::conv_transpose2d(vs, input, output, kernel, config)
}

/// Activation of an [`MlpBlock`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Activation {
    /// Exact GELU.
    Gelu,
    /// ReLU.
    Relu,
}

/// Two linear layers with an activation between them.
#[derive(Debug)]
pub(super) struct MlpBlock {
    lin1: Linear,
    lin2: Linear,
    activation: Activation,
}

impl MlpBlock {
    pub(super) fn new(vs: &nn::Path, channels: i64, hidden: i64, activation: Activation) -> Self {
        Self {
            lin1: linear(vs / "lin1", channels, hidden),
            lin2: linear(vs / "lin2", hidden, channels),
            activation,
        }
    }

    /// `[…, C]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.lin1.forward(x);
        let active = match self.activation {
            Activation::Gelu => gelu(hidden),
            Activation::Relu => hidden.relu(),
        };
        self.lin2.forward(&active)
    }
}
