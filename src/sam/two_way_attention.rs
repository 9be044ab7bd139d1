//! Attention of the mask decoder (`Attention` in `segment_anything/modeling/transformer.py`).

use tch::Tensor;
use tch::nn::{self, Module};

use super::TwoWayTransformerConfig;
use super::common::{dims, linear};

/// Multi-head attention from one sequence to another, in a space that may have fewer channels.
#[derive(Debug)]
pub(super) struct TwoWayAttention {
    q_proj: nn::Linear,
    k_proj: nn::Linear,
    v_proj: nn::Linear,
    out_proj: nn::Linear,
    heads: i64,
}

impl TwoWayAttention {
    /// With the channels of the embedding divided by `downsample_rate` inside.
    pub(super) fn new(vs: &nn::Path, config: &TwoWayTransformerConfig, downsample_rate: i64) -> Self {
        let TwoWayTransformerConfig { embedding_dim, heads, .. } = *config;
        let internal_dim = embedding_dim / downsample_rate;
        let project = |name| linear(vs / name, embedding_dim, internal_dim);
        Self {
            q_proj: project("q_proj"),
            k_proj: project("k_proj"),
            v_proj: project("v_proj"),
            out_proj: linear(vs / "out_proj", internal_dim, embedding_dim),
            heads,
        }
    }

    /// Queries `[P, T, C]`, keys and values `[P, S, C]` to `[P, T, C]`.
    pub(super) fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        let per_head = |project: &nn::Linear, x: &Tensor| {
            let [batch, tokens, _] = dims(x);
            project.forward(x).view([batch, tokens, self.heads, -1]).transpose(1, 2) // [P, heads, T, c]
        };
        let attended = Tensor::scaled_dot_product_attention::<Tensor>(
            &per_head(&self.q_proj, query),
            &per_head(&self.k_proj, key),
            &per_head(&self.v_proj, value),
            None,
            0.0,
            false,
            None,
            false,
        );
        self.out_proj.forward(&attended.transpose(1, 2).flatten(2, 3))
    }
}
