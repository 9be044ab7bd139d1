//! Attention of the mask decoder (`Attention` in `segment_anything/modeling/transformer.py`).

use tch::nn::{self, Module};
use tch::{Device, Tensor};

use super::TwoWayTransformerConfig;
use super::common::{dims, linear};
use crate::network::layers::Linear;

/// Multi-head attention from one sequence to another, with possibly fewer channels inside.
#[derive(Debug)]
pub(super) struct TwoWayAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: i64,
}

impl TwoWayAttention {
    /// The number of channels inside is that of the embedding divided by `downsample_rate`.
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

    /// Queries `[P, T, C]`, keys and values `[P, S, C]` to `[P, T, C]`. If one side is the same for all P / G
    /// prompts of a slice, pass it as `[G, …]`: it is then projected only once.
    pub(super) fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        let [asking, tokens, channels] = dims(query);
        let [asked, _, _] = dims(key);
        if asked < asking {
            // Process the queries of all prompts of a slice together.
            let together = query.reshape([asked, asking / asked * tokens, channels]);
            return self.forward(&together, key, value).view([asking, tokens, channels]);
        }
        let per_head = |project: &Linear, x: &Tensor| {
            let [batch, tokens, _] = dims(x);
            let projected = project.forward(x);
            let each = if batch < asked { for_each_prompt(&projected, asked) } else { projected };
            each.view([asked, tokens, self.heads, -1]).transpose(1, 2) // [P, heads, T, c]
        };
        let query = per_head(&self.q_proj, query);
        let (key, value) = (per_head(&self.k_proj, key), per_head(&self.v_proj, value));
        let attended = if query.device() == Device::Cpu {
            attend_in_turn(&query, &key, &value)
        } else {
            Tensor::scaled_dot_product_attention(
                &query,
                &key,
                &value,
                None::<Tensor>,
                0.0,
                false,
                None,
                false,
            )
        };
        self.out_proj.forward(&attended.transpose(1, 2).flatten(2, 3))
    }
}

/// Expands `[G, S, C]`, the same for all prompts of a slice, to `[P, S, C]`.
pub(super) fn for_each_prompt(x: &Tensor, prompts: i64) -> Tensor {
    let [slices, tokens, channels] = dims(x);
    x.unsqueeze(1)
        .expand([slices, prompts / slices, tokens, channels], false)
        .reshape([prompts, tokens, channels])
}

/// Attention of queries `[P, heads, T, c]` to keys and values `[P, heads, S, c]` by batched products, because
/// libtorch's fused attention is slow on CPUs for the few tokens of a prompt. If there are fewer keys than queries,
/// the scores of a query lie along a column, so that softmax processes many queries at once.
fn attend_in_turn(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let [.., keys, channels] = dims::<4>(key);
    let query = query * (channels as f64).sqrt().recip();
    if keys < query.size()[2] {
        key.matmul(&query.transpose(-2, -1)).softmax(-2, None).transpose(-2, -1).matmul(value)
    } else {
        query.matmul(&key.transpose(-2, -1)).softmax(-1, None).matmul(value)
    }
}
