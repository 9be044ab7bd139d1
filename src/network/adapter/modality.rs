//! MAdapter: turns a volume of any size with any number of modalities into SAM's input (paper section 3.2).

use tch::Tensor;
use tch::nn::{self, Module};

use super::instance_norm::InstanceNorm;
use crate::network::layers::{gelu, resize_antialiased};

/// Channels of SAM's input.
const RGB: i64 = 3;
/// Channels before and after the last 2× upsampling.
const HIDDEN: [i64; 2] = [16, 32];

/// Sizes of a [`ModalityAdapter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModalityAdapterConfig {
    /// Modalities, M.
    pub modalities: i64,
    /// `[height, width]` of the windows, pixels.
    pub patch: [i64; 2],
    /// Side of the square model input, S, pixels.
    pub image_size: i64,
}

impl ModalityAdapterConfig {
    /// Number of learned 2× upsamplings that fit between patch and model input: 2 for 256 to 1024, 0 for equal
    /// sizes.
    fn doublings(&self) -> u32 {
        let longest = self.patch[0].max(self.patch[1]).max(1);
        (self.image_size / longest).max(1).ilog2()
    }
}

/// The resized volume plus a correction by volume convolutions and learned upsampling. The last convolution starts
/// at zero, so a newly initialised adapter only resizes, and SAM sees input it knows.
#[derive(Debug)]
pub struct ModalityAdapter {
    first: nn::Conv3D,
    first_norm: InstanceNorm,
    doublings: Vec<Doubling>,
    refine: nn::Conv3D,
    refine_norm: InstanceNorm,
    last: nn::Conv3D,
    image_size: i64,
}

impl ModalityAdapter {
    /// Creates the weights below `vs`.
    pub fn new(vs: &nn::Path, config: &ModalityAdapterConfig) -> Self {
        let [narrow, wide] = HIDDEN;
        let same = nn::ConvConfig { padding: 1, ..Default::default() };
        let zero = nn::ConvConfig { ws_init: nn::Init::Const(0.0), bs_init: nn::Init::Const(0.0), ..same };
        let count = config.doublings();
        let doubling = |index| {
            let output = if index + 1 == count { wide } else { narrow };
            Doubling::new(&(vs / "doublings" / index), narrow, output)
        };
        let upsampled = if count == 0 { narrow } else { wide };
        Self {
            first: nn::conv3d(vs / "first", config.modalities, narrow, 3, same),
            first_norm: InstanceNorm::new(&(vs / "first_norm"), narrow),
            doublings: (0..count).map(doubling).collect(),
            refine: nn::conv3d(vs / "refine", upsampled, wide, 3, same),
            refine_norm: InstanceNorm::new(&(vs / "refine_norm"), wide),
            last: nn::conv3d(vs / "last", wide, RGB, 3, zero),
            image_size: config.image_size,
        }
    }

    /// `[B, M, D, height, width]` to `[B·D, 3, S, S]`; exact GELU.
    pub fn forward(&self, volume: &Tensor) -> Tensor {
        let kind = self.first.ws.kind();
        let first = gelu(self.first_norm.forward(&self.first.forward(&volume.to_kind(kind))));
        let upsampled = self.doublings.iter().fold(first, |x, doubling| doubling.forward(&x));
        let resized = resize_volume(&upsampled, [self.image_size; 2]);
        let refined = gelu(self.refine_norm.forward(&self.refine.forward(&resized)));
        resize_to_rgb(volume, [self.image_size; 2]).to_kind(kind)
            + slices_as_batch(&self.last.forward(&refined))
    }
}

/// Transposed convolution (1, 2, 2) that doubles height and width, then normalisation and exact GELU.
#[derive(Debug)]
struct Doubling {
    weight: Tensor,
    bias: Tensor,
    norm: InstanceNorm,
}

impl Doubling {
    /// Kernel and stride.
    const FACTOR: [i64; 3] = [1, 2, 2];

    fn new(vs: &nn::Path, input: i64, output: i64) -> Self {
        let [depth, height, width] = Self::FACTOR;
        Self {
            weight: vs.kaiming_normal("weight", &[input, output, depth, height, width]),
            bias: vs.zeros("bias", &[output]),
            norm: InstanceNorm::new(&(vs / "norm"), output),
        }
    }

    /// `[B, C, D, H, W]` to `[B, C', D, 2H, 2W]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let (padding, output_padding, groups, dilation) = (0, 0, 1, 1);
        let bias = Some(&self.bias);
        let doubled =
            x.conv_transpose3d(&self.weight, bias, Self::FACTOR, padding, output_padding, groups, dilation);
        gelu(self.norm.forward(&doubled))
    }
}

/// Converts a volume to SAM's input without learned parameters: `[B, M, D, height, width]` to `[B·D, 3, H, W]` with
/// `size = [H, W]`. One modality is repeated, three become the channels, and of any other number the mean is repeated.
/// See [`resize_antialiased`].
pub fn resize_to_rgb(volume: &Tensor, size: [i64; 2]) -> Tensor {
    let modalities = volume.size()[1];
    let channels = if modalities == RGB {
        volume.shallow_clone()
    } else {
        volume.mean_dim([1i64].as_slice(), true, None)
    };
    let slices = slices_as_batch(&resize_volume(&channels, size));
    slices.expand([-1, RGB, -1, -1], false).contiguous()
}

/// `[B, C, D, height, width]` to `[B, C, D, H, W]` with `size = [H, W]`.
fn resize_volume(volume: &Tensor, size: [i64; 2]) -> Tensor {
    let [batch, channels, depth] = [0, 1, 2].map(|axis| volume.size()[axis]);
    resize_antialiased(&volume.flatten(1, 2), size).view([batch, channels, depth, size[0], size[1]])
}

/// `[B, C, D, H, W]` to `[B·D, C, H, W]`.
fn slices_as_batch(volume: &Tensor) -> Tensor {
    volume.transpose(1, 2).flatten(0, 1)
}
