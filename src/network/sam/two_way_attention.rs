//! Attention of the mask decoder (`Attention` in `segment_anything/modeling/transformer.py`).

use tch::nn::{self, Module};
use tch::{Device, Tensor};

use super::TwoWayTransformerConfig;
use super::common::{dims, linear};
use crate::network::layers::Linear;

/// Multi-head attention from one sequence to another, in a space that may have fewer channels.
#[derive(Debug)]
pub(super) struct TwoWayAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
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

    /// Queries `[P, T, C]`, keys and values `[P, S, C]` to `[P, T, C]`. Either side may be the same for the P / G prompts
    /// of a slice and is then given once, `[G, …]`: it is projected once.
    pub(super) fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        let [asking, tokens, channels] = dims(query);
        let [asked, _, _] = dims(key);
        if asked < asking {
            // All prompts of a slice ask together.
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

/// What is the same for all prompts of a slice, `[G, S, C]`, as `[P, S, C]`.
pub(super) fn for_each_prompt(x: &Tensor, prompts: i64) -> Tensor {
    let [slices, tokens, channels] = dims(x);
    x.unsqueeze(1)
        .expand([slices, prompts / slices, tokens, channels], false)
        .reshape([prompts, tokens, channels])
}

/// Attention of `[P, heads, T, c]` to `[P, heads, S, c]` by batched products. libtorch's fused attention on CPUs is slow
/// for the few tokens of a prompt; their scores lie along the columns, so that softmax runs over many at once.
fn attend_in_turn(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let [.., keys, channels] = dims::<4>(key);
    let query = query * (channels as f64).sqrt().recip();
    if keys < query.size()[2] {
        key.matmul(&query.transpose(-2, -1)).softmax(-2, None).transpose(-2, -1).matmul(value)
    } else {
        query.matmul(&key.transpose(-2, -1)).softmax(-1, None).matmul(value)
    }
}
