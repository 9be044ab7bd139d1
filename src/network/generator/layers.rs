//! Layers of the generators: convolutions, each followed by instance normalisation and LeakyReLU (slope 0.01), as in
//! nnU-Net.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

/// Instance normalisation over all slices and pixels of a window, then LeakyReLU.
#[derive(Debug)]
struct NormAct {
    weight: Tensor,
    bias: Tensor,
    depth: i64,
}

impl NormAct {
    const EPS: f64 = 1e-5;

    fn new(vs: &nn::Path, channels: i64, depth: i64) -> Self {
        Self { weight: vs.ones("weight", &[channels]), bias: vs.zeros("bias", &[channels]), depth }
    }

    /// `[D, C, h, w]`: batch normalisation with the statistics of the batch is instance normalisation of the window.
    fn normalise(&self, window: &Tensor) -> Tensor {
        let no_running = None::<&Tensor>;
        window.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            no_running,
            no_running,
            true,
            0.0,
            Self::EPS,
            true,
        )
    }
}

impl Module for NormAct {
    /// `[B·D, C, h, w]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let normed = match x.size()[0] / self.depth {
            1 => self.normalise(x),
            _ => {
                let windows = x.split(self.depth, 0);
                Tensor::cat(&windows.iter().map(|window| self.normalise(window)).collect::<Vec<_>>(), 0)
            }
        };
        normed.leaky_relu()
    }
}

/// A convolution within slices that keeps the size.
#[derive(Debug)]
pub(super) struct Convolution {
    conv: nn::Conv2D,
    norm: NormAct,
}

impl Convolution {
    pub fn new(vs: &nn::Path, [input, output]: [i64; 2], kernel: i64, depth: i64) -> Self {
        let config = nn::ConvConfig { padding: kernel / 2, bias: false, ..Default::default() };
        Self {
            conv: nn::conv2d(vs / "conv", input, output, kernel, config),
            norm: NormAct::new(&(vs / "norm"), output, depth),
        }
    }

    /// The type in which the layer computes.
    pub fn kind(&self) -> Kind {
        self.conv.ws.kind()
    }
}

impl Module for Convolution {
    /// `[B·D, input, h, w]` to `[B·D, output, h, w]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.norm.forward(&self.conv.forward(x))
    }
}

/// Two 3×3 convolutions.
#[derive(Debug)]
pub(super) struct ConvBlock {
    first: Convolution,
    second: Convolution,
}

impl ConvBlock {
    pub fn new(vs: &nn::Path, [input, output]: [i64; 2], depth: i64) -> Self {
        Self {
            first: Convolution::new(&(vs / "first"), [input, output], 3, depth),
            second: Convolution::new(&(vs / "second"), [output, output], 3, depth),
        }
    }
}

impl Module for ConvBlock {
    /// `[B·D, input, h, w]` to `[B·D, output, h, w]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.second.forward(&self.first.forward(x))
    }
}

/// A transposed convolution that doubles the size.
#[derive(Debug)]
pub(super) struct Doubling {
    conv: nn::ConvTranspose2D,
    norm: NormAct,
}

impl Doubling {
    pub fn new(vs: &nn::Path, [input, output]: [i64; 2], depth: i64) -> Self {
        let config = nn::ConvTransposeConfig { stride: 2, bias: false, ..Default::default() };
        Self {
            conv: nn::conv_transpose2d(vs / "conv", input, output, 2, config),
            norm: NormAct::new(&(vs / "norm"), output, depth),
        }
    }
}

impl Module for Doubling {
    /// `[B·D, input, h, w]` to `[B·D, output, 2h, 2w]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.norm.forward(&self.conv.forward(x))
    }
}

/// A 3×3×3 convolution, the only layer of a generator that mixes slices with learned weights.
#[derive(Debug)]
pub(super) struct DepthConvolution {
    conv: nn::Conv3D,
    norm: NormAct,
}

impl DepthConvolution {
    pub fn new(vs: &nn::Path, channels: i64, depth: i64) -> Self {
        let config = nn::ConvConfig { padding: 1, bias: false, ..Default::default() };
        Self {
            conv: nn::conv3d(vs / "conv", channels, channels, 3, config),
            norm: NormAct::new(&(vs / "norm"), channels, depth),
        }
    }
}

impl Module for DepthConvolution {
    /// `[B·D, C, h, w]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let volumes = x.view([-1, self.norm.depth, size[1], size[2], size[3]]).transpose(1, 2);
        let mixed = self.conv.forward(&volumes); // [B, C, D, h, w]
        self.norm.forward(&mixed.transpose(1, 2).reshape(&size[..]))
    }
}
