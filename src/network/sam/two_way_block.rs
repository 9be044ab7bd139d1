//! Block of the two-way transformer (`TwoWayAttentionBlock` in `segment_anything/modeling/transformer.py`) with the
//! paper's adapters: after each of the three attentions and parallel to the MLP (section 3.2).

use tch::Tensor;
use tch::nn::{self, Module};

use super::TwoWayTransformerConfig;
use super::common::{Activation, MlpBlock, dims};
use super::two_way_attention::{TwoWayAttention, for_each_prompt};
use crate::network::adapter::{Adapter, add_after, add_beside};
use crate::network::layers::LayerNorm;

/// Eps of every layer normalisation of the two-way transformer.
pub(super) const NORM_EPS: f64 = 1e-5;

/// Inputs that stay the same throughout the transformer.
pub(super) struct Positions<'a> {
    /// The initial prompt tokens, `[P, T, C]`.
    pub tokens: &'a Tensor,
    /// Encoding of the image's positions, `[1, S, C]`, or `[D, S, C]` if slices differ.
    pub image: &'a Tensor,
    /// Number of classes, N, in P = B·D·N.
    pub classes: i64,
}

impl Positions<'_> {
    /// Image tokens `[P, S, C]`, or `[B·D, S, C]` if they are the same for all classes, plus their position
    /// encoding.
    pub(super) fn add_to_image(&self, image: &Tensor) -> Tensor {
        let [slices, positions, channels] = dims(self.image);
        let classes = if image.size()[0] == self.tokens.size()[0] { self.classes } else { 1 };
        let by_slice = image.view([-1, slices, classes, positions, channels]);
        (by_slice + self.image.unsqueeze(1)).view_as(image)
    }
}

/// Self-attention of the tokens, attention from tokens to image, MLP of the tokens, attention from image to tokens.
#[derive(Debug)]
pub(super) struct TwoWayBlock {
    self_attn: TwoWayAttention,
    norm1: LayerNorm,
    cross_attn_token_to_image: TwoWayAttention,
    norm2: LayerNorm,
    mlp: MlpBlock,
    norm3: LayerNorm,
    norm4: LayerNorm,
    cross_attn_image_to_token: TwoWayAttention,
    is_first: bool,
    adapter_self_attn: Option<Adapter>,
    adapter_token_to_image: Option<Adapter>,
    adapter_mlp: Option<Adapter>,
    adapter_image_to_token: Option<Adapter>,
}

impl TwoWayBlock {
    /// Block number `index`. The self-attention of the first block has no position encoding and no skip connection.
    pub(super) fn new(
        vs: &nn::Path,
        adapters: &nn::Path,
        config: &TwoWayTransformerConfig,
        index: usize,
    ) -> Self {
        let TwoWayTransformerConfig { embedding_dim, mlp_dim, downsample_rate, .. } = *config;
        let norm = |name| LayerNorm::new(&(vs / name), embedding_dim, NORM_EPS);
        let attention = |name, rate| TwoWayAttention::new(&(vs / name), config, rate);
        let adapter = |name| Adapter::new(&(adapters / name), embedding_dim, &config.adapter);
        Self {
            self_attn: attention("self_attn", 1),
            norm1: norm("norm1"),
            cross_attn_token_to_image: attention("cross_attn_token_to_image", downsample_rate),
            norm2: norm("norm2"),
            mlp: MlpBlock::new(&(vs / "mlp"), embedding_dim, mlp_dim, Activation::Relu),
            norm3: norm("norm3"),
            norm4: norm("norm4"),
            cross_attn_image_to_token: attention("cross_attn_image_to_token", downsample_rate),
            is_first: index == 0,
            adapter_self_attn: adapter("adapter_self_attn"),
            adapter_token_to_image: adapter("adapter_token_to_image"),
            adapter_mlp: adapter("adapter_mlp"),
            adapter_image_to_token: adapter("adapter_image_to_token"),
        }
    }

    /// Tokens `[P, T, C]` and contiguous image `[P, S, C]` to the same shapes. If the image is the same for all
    /// classes of a slice, it may be passed as `[B·D, S, C]`.
    pub(super) fn forward(&self, tokens: &Tensor, image: &Tensor, positions: &Positions) -> (Tensor, Tensor) {
        let classes = positions.classes;
        let tokens = self.norm1.forward(&self.attend_to_self(tokens, positions));

        let query = &tokens + positions.tokens;
        let key = positions.add_to_image(image);
        let attended = self.cross_attn_token_to_image.forward(&query, &key, image);
        let tokens = tokens + add_after(&self.adapter_token_to_image, attended, classes);
        let tokens = self.norm2.forward(&tokens);

        let changed = add_beside(&self.adapter_mlp, self.mlp.forward(&tokens), &tokens, classes);
        let tokens = self.norm3.forward(&(tokens + changed));

        let query = &tokens + positions.tokens;
        let attended = self.cross_attn_image_to_token.forward(&key, &query, &tokens);
        let added = add_after(&self.adapter_image_to_token, attended, classes); // [P, S, C]
        let [prompts, _, _] = dims(&added);
        let image =
            if image.size()[0] < prompts { for_each_prompt(image, prompts) + added } else { image + added };
        (tokens, self.norm4.forward(&image))
    }

    fn attend_to_self(&self, tokens: &Tensor, positions: &Positions) -> Tensor {
        let adapted = |attended| add_after(&self.adapter_self_attn, attended, positions.classes);
        if self.is_first {
            return adapted(self.self_attn.forward(tokens, tokens, tokens));
        }
        let query = tokens + positions.tokens;
        tokens + adapted(self.self_attn.forward(&query, &query, tokens))
    }
}
