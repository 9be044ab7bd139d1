//! Two-way transformer of the mask decoder (`TwoWayTransformer` in `segment_anything/modeling/transformer.py`)
//! with the paper's adapters (section 3.2).

use tch::Tensor;
use tch::nn::{self, Module};

use super::two_way_attention::TwoWayAttention;
use super::two_way_block::{NORM_EPS, Positions, TwoWayBlock};
use crate::bundle::AdapterKind;
use crate::network::adapter::{Adapter, AdapterConfig, add_after};
use crate::network::layers::LayerNorm;

/// Sizes of a [`TwoWayTransformer`].
#[derive(Debug, Clone, PartialEq)]
pub struct TwoWayTransformerConfig {
    /// Number of blocks. 2 in SAM.
    pub layers: usize,
    /// Channels of tokens and image, C. 256 in SAM.
    pub embedding_dim: i64,
    /// Attention heads. 8 in SAM.
    pub heads: i64,
    /// Width of the MLPs. 2048 in SAM.
    pub mlp_dim: i64,
    /// Divisor of the channels within the attention between tokens and image. 2 in SAM.
    pub downsample_rate: i64,
    /// Adapters in every block and after the last attention. Default none.
    pub adapter: AdapterConfig,
}

impl TwoWayTransformerConfig {
    /// SAM's sizes without adapters.
    pub fn sam() -> Self {
        Self {
            layers: 2,
            embedding_dim: 256,
            heads: 8,
            mlp_dim: 2048,
            downsample_rate: 2,
            adapter: AdapterConfig::new(AdapterKind::None, 1),
        }
    }
}

/// Prompt tokens attend to the image, and the image attends to the tokens.
#[derive(Debug)]
pub struct TwoWayTransformer {
    layers: Vec<TwoWayBlock>,
    final_attn_token_to_image: TwoWayAttention,
    norm_final_attn: LayerNorm,
    adapter_final_attn: Option<Adapter>,
}

impl TwoWayTransformer {
    /// Creates SAM's weights below `vs` and the adapters below `adapters`, which may belong to another store.
    pub fn new(vs: &nn::Path, adapters: &nn::Path, config: &TwoWayTransformerConfig) -> Self {
        let layer =
            |index| TwoWayBlock::new(&(vs / "layers" / index), &(adapters / "layers" / index), config, index);
        let TwoWayTransformerConfig { embedding_dim, downsample_rate, .. } = *config;
        let final_attn = vs / "final_attn_token_to_image";
        Self {
            layers: (0..config.layers).map(layer).collect(),
            final_attn_token_to_image: TwoWayAttention::new(&final_attn, config, downsample_rate),
            norm_final_attn: LayerNorm::new(&(vs / "norm_final_attn"), embedding_dim, NORM_EPS),
            adapter_final_attn: Adapter::new(
                &(adapters / "adapter_final_attn"),
                embedding_dim,
                &config.adapter,
            ),
        }
    }

    /// Inputs: image embeddings `[P, C, h, w]`, or `[B·D, C, h, w]` if they are the same for all classes; prompt
    /// tokens `[P, T, C]`; position encoding of the image, `[1, C, h, w]` or `[D, C, h, w]`. P = B·D·N slices and
    /// classes. Returns tokens `[P, T, C]` and image `[P, h·w, C]`.
    pub fn forward(
        &self,
        image_embedding: &Tensor,
        image_pe: &Tensor,
        tokens: &Tensor,
        classes: i64,
    ) -> (Tensor, Tensor) {
        let as_tokens = |image: &Tensor| image.flatten(2, 3).transpose(1, 2).contiguous();
        let positions = Positions { tokens, image: &as_tokens(image_pe), classes };
        let start = (tokens.shallow_clone(), as_tokens(image_embedding));
        let (tokens, image) = self
            .layers
            .iter()
            .fold(start, |(tokens, image), layer| layer.forward(&tokens, &image, &positions));

        let query = &tokens + positions.tokens;
        let key = positions.add_to_image(&image);
        let attended = self.final_attn_token_to_image.forward(&query, &key, &image);
        let tokens = tokens + add_after(&self.adapter_final_attn, attended, classes);
        (self.norm_final_attn.forward(&tokens), image)
    }
}
