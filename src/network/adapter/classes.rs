//! MC-Adapter: turns one binary mask per class into a multi-class segmentation (paper section 3.2).

use tch::Tensor;
use tch::nn::{self, Module};

use super::instance_norm::InstanceNorm;
use crate::network::layers::gelu;

/// Inner channels.
const HIDDEN: i64 = 64;

/// Two volume convolutions with a skip connection. Newly initialised, it returns the masks unchanged.
#[derive(Debug)]
pub struct ClassesAdapter {
    expand: nn::Conv3D,
    /// Adds the mask prompts to the hidden channels; starts at zero. Not in the paper.
    expand_prompts: Option<nn::Conv3D>,
    norm: InstanceNorm,
    shrink: nn::Conv3D,
}

impl ClassesAdapter {
    /// Adapter for N = `classes` classes, background included, which also uses mask prompts if `with_prompts`.
    pub fn new(vs: &nn::Path, classes: i64, with_prompts: bool) -> Self {
        let same = nn::ConvConfig { padding: 1, ..Default::default() };
        let zero = nn::ConvConfig { ws_init: nn::Init::Const(0.0), bs_init: nn::Init::Const(0.0), ..same };
        Self {
            expand: nn::conv3d(vs / "expand", classes, HIDDEN, 3, same),
            expand_prompts: with_prompts.then(|| {
                let without_bias = nn::ConvConfig { bias: false, ..zero };
                nn::conv3d(vs / "expand_prompts", classes, HIDDEN, 3, without_bias)
            }),
            norm: InstanceNorm::new(&(vs / "norm"), HIDDEN),
            shrink: nn::conv3d(vs / "shrink", HIDDEN, classes, 3, zero),
        }
    }

    /// Mask logits `[B, N, D, 4h, 4w]`, and mask prompts of this size if there are any, to class logits `[B, N, D, height,
    /// width]`; exact GELU.
    pub fn forward(&self, masks: &Tensor, prompts: Option<&Tensor>, size: [i64; 2]) -> Tensor {
        let mut expanded = self.expand.forward(masks);
        if let (Some(expand), Some(prompts)) = (&self.expand_prompts, prompts) {
            expanded += expand.forward(&prompts.to_kind(masks.kind()));
        }
        let hidden = gelu(self.norm.forward(&expanded));
        resize_logits(&(masks + self.shrink.forward(&hidden)), size)
    }
}

/// `[B, N, D, h, w]` to `[B, N, D, height, width]`, bilinearly with `align_corners = false`, as SAM resizes masks
/// (`Sam.postprocess_masks`).
pub fn resize_logits(logits: &Tensor, [height, width]: [i64; 2]) -> Tensor {
    let size = logits.size();
    if size[3..] == [height, width] {
        return logits.shallow_clone();
    }
    logits
        .flatten(1, 2)
        .upsample_bilinear2d([height, width], false, None, None)
        .view([size[0], size[1], size[2], height, width])
}
