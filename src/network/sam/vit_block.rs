//! Transformer block of the image encoder (`Block` in `segment_anything/modeling/image_encoder.py`) with the paper's
//! two adapters: after the attention and parallel to the MLP (section 3.1).

use tch::Tensor;
use tch::nn::{self, Module};

use super::VitConfig;
use super::attention::Attention;
use super::common::{Activation, MlpBlock};
use crate::network::adapter::{Adapter, add_after, add_beside};
use crate::network::layers::LayerNorm;

/// Eps of every layer normalisation of the image encoder.
const NORM_EPS: f64 = 1e-6;

/// Attention (global or within windows) and MLP, each with a skip connection.
#[derive(Debug)]
pub(super) struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: MlpBlock,
    window: Option<i64>,
    adapter_attn: Option<Adapter>,
    adapter_mlp: Option<Adapter>,
}

impl Block {
    /// Block number `index`, with frozen weights below `vs` and adapters below `adapters`.
    pub(super) fn new(vs: &nn::Path, adapters: &nn::Path, config: &VitConfig, index: usize) -> Self {
        let VitConfig { embed_dim, heads, mlp_ratio, window_size, table_grid, .. } = *config;
        let window = (!config.global_blocks.contains(&index)).then_some(window_size);
        Self {
            norm1: LayerNorm::new(&(vs / "norm1"), embed_dim, NORM_EPS),
            attn: Attention::new(&(vs / "attn"), embed_dim, heads, window.unwrap_or(table_grid)),
            norm2: LayerNorm::new(&(vs / "norm2"), embed_dim, NORM_EPS),
            mlp: MlpBlock::new(&(vs / "mlp"), embed_dim, embed_dim * mlp_ratio, Activation::Gelu),
            window,
            adapter_attn: Adapter::new(&(adapters / "adapter_attn"), embed_dim, &config.adapter),
            adapter_mlp: Adapter::new(&(adapters / "adapter_mlp"), embed_dim, &config.adapter),
        }
    }

    /// Contiguous `[B·D, H, W, C]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        // Windows are merged again, so that an adapter that mixes slices afterwards sees whole slices.
        let attended = self.attn.forward(&self.norm1.forward(x), self.window);
        let x = x + add_after(&self.adapter_attn, attended, 1);
        let normed = self.norm2.forward(&x);
        x + add_beside(&self.adapter_mlp, self.mlp.forward(&normed), &normed, 1)
    }
}
