//! Port of Segment Anything (PyPI `segment-anything` 1.0): image encoder, prompt encoder, mask decoder. Weights have
//! the official names, so official checkpoints load directly.

mod attention;
mod common;
mod image_encoder;
mod mask_decoder;
mod mbconv;
mod neck;
mod position;
mod prompt_encoder;
mod prompt_tensors;
mod random_position;
mod tiny_vit;
mod tiny_vit_attention;
mod tiny_vit_block;
mod transformer;
mod two_way_attention;
mod two_way_block;
mod vit_block;
mod vit_config;
mod window;

use tch::Tensor;

pub use image_encoder::ImageEncoderVit;
pub use mask_decoder::{MaskDecoder, MaskDecoderConfig};
pub use prompt_encoder::{PromptEncoder, PromptEncoderConfig};
pub use prompt_tensors::{PromptTensors, PromptTensorsError};
pub use tiny_vit::{TinyVit, TinyVitConfig};
pub use transformer::{TwoWayTransformer, TwoWayTransformerConfig};
pub use vit_config::{VitConfig, default_taps};

/// An image encoder's output for the slices of B volumes.
#[derive(Debug)]
pub struct Encoded {
    /// Output of the neck, `[B·D, 256, h, w]`.
    pub embedding: Tensor,
    /// Features for the prompt generator, each `[B·D, C, h, w]`: shallowest first, the neck's output last.
    pub taps: Vec<Tensor>,
    /// How many of the first of them the mask decoder gets as well.
    pub finer: usize,
}

impl Encoded {
    /// What the mask decoder gets: the embedding, then the finer features.
    pub fn for_decoder(&self) -> Vec<Tensor> {
        let finer = self.taps.iter().take(self.finer);
        std::iter::once(&self.embedding).chain(finer).map(Tensor::shallow_clone).collect()
    }
}
