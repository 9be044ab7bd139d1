//! Multi-head self-attention of the image encoder with decomposed relative positions
//! (`Attention` in `segment_anything/modeling/image_encoder.py`).

use tch::Tensor;
use tch::nn::{self, Module};

use super::common::{dims, linear};
use super::position::PositionTable;
use super::window;
use crate::kernel::{self, AttentionShape, PositionBias, QkvOrder};
use crate::network::layers::Linear;

/// Most attention scores held at once. For larger inputs, queries are processed a few image rows at a time.
const MAX_LOGITS: i64 = 1 << 24;

/// Self-attention over all positions or within windows.
#[derive(Debug)]
pub(super) struct Attention {
    qkv: Linear,
    proj: Linear,
    rel_pos_h: PositionTable,
    rel_pos_w: PositionTable,
    heads: i64,
}

impl Attention {
    /// For `channels` channels, with relative position tables for `table_size` positions per side.
    pub(super) fn new(vs: &nn::Path, channels: i64, heads: i64, table_size: i64) -> Self {
        let table = |name| PositionTable::new(vs.zeros(name, &[2 * table_size - 1, channels / heads]));
        Self {
            qkv: linear(vs / "qkv", channels, channels * 3),
            proj: linear(vs / "proj", channels, channels),
            rel_pos_h: table("rel_pos_h"),
            rel_pos_w: table("rel_pos_w"),
            heads,
        }
    }

    /// `[B, H, W, C]` to the same shape. Each token attends to its window of `window` × `window` tokens, or to all.
    ///
    /// Windows are padded with zeros at the right and the bottom, as upstream. The projection of a padding token is
    /// the bias.
    pub(super) fn forward(&self, x: &Tensor, window: Option<i64>) -> Tensor {
        let [_, height, width, channels] = dims(x);
        let qkv = self.qkv.forward(x);
        let head_channels = channels / self.heads;
        let [window_h, window_w] = window.map_or([height, width], |side| [side, side]);
        let bias = self
            .qkv
            .bs
            .as_ref()
            .map_or_else(|| qkv.new_zeros([3 * channels], (qkv.kind(), qkv.device())), Tensor::shallow_clone);
        let [along_h, along_w] = [self.rel_pos_h.relative(window_h), self.rel_pos_w.relative(window_w)];
        let gets_gradient = [&qkv, &along_h, &along_w].iter().any(|tensor| tensor.requires_grad());
        let attended = if !gets_gradient && kernel::is_supported(&qkv, head_channels) {
            let shape = AttentionShape::new(&qkv, [window_h, window_w], self.heads, QkvOrder::ByRole);
            let position = PositionBias::Decomposed { along_h: &along_h, along_w: &along_w };
            // The bias may be in training and require a gradient even if none is computed here.
            kernel::attention(&shape, &qkv, &bias.detach(), position)
        } else {
            match window {
                None => self.attend(&qkv),
                Some(window) => {
                    let windows = window::partition(&qkv, window, &bias);
                    window::unpartition(&self.attend(&windows), [height, width])
                }
            }
        };
        self.proj.forward(&attended)
    }

    /// Global attention of projected `[B, H, W, 3·C]` to `[B, H, W, C]`.
    fn attend(&self, qkv: &Tensor) -> Tensor {
        let [batch, height, width, channels] = dims(qkv);
        let (positions, channels) = (height * width, channels / 3);
        let head_channels = channels / self.heads;
        let per_head = qkv
            .reshape([batch, positions, 3, self.heads, head_channels])
            .permute([2, 0, 3, 1, 4])
            .reshape([3, batch * self.heads, positions, head_channels]);
        let grid = Grid {
            query: per_head.get(0).view([-1, height, width, head_channels]),
            key: per_head.get(1).transpose(1, 2),
            value: per_head.get(2),
            table_h: self.rel_pos_h.relative(height),
            table_w: self.rel_pos_w.relative(width),
        };
        let row_logits = batch * self.heads * width * positions;
        let rows = (MAX_LOGITS / row_logits).clamp(1, height);
        let attended: Vec<Tensor> = (0..height)
            .step_by(rows as usize)
            .map(|start| grid.attend(start, rows.min(height - start)))
            .collect();
        Tensor::cat(&attended, 1) // [B·heads, H·W, c]
            .view([batch, self.heads, height, width, head_channels])
            .permute([0, 2, 3, 1, 4])
            .reshape([batch, height, width, channels])
    }
}

/// Queries `[B·heads, H, W, c]`, keys `[B·heads, c, H·W]`, values `[B·heads, H·W, c]` and the position tables
/// `[H, H, c]` and `[W, W, c]`.
struct Grid {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table_h: Tensor,
    table_w: Tensor,
}

impl Grid {
    /// Attention of the queries in `rows` image rows from `start`, `[B·heads, rows·W, c]`.
    fn attend(&self, start: i64, rows: i64) -> Tensor {
        let query = self.query.narrow(1, start, rows);
        let [batch, _, width, head_channels] = dims(&query);
        let height = self.table_h.size()[0];
        let table_h = self.table_h.narrow(0, start, rows);
        let along_h = Tensor::einsum("bhwc,hkc->bhwk", &[&query, &table_h], None::<i64>);
        let along_w = Tensor::einsum("bhwc,wkc->bhwk", &[&query, &self.table_w], None::<i64>);
        let scale = (head_channels as f64).powf(-0.5);
        let mut logits = (query * scale)
            .reshape([batch, rows * width, head_channels])
            .bmm(&self.key)
            .view([batch, rows, width, height, width]);
        logits += along_h.unsqueeze(-1);
        logits += along_w.unsqueeze(-2);
        logits.view([batch, rows * width, height * width]).softmax(-1, None).bmm(&self.value)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::compute::{Compute, Precision};

    #[test]
    fn a_backbone_in_training_is_validated_as_a_frozen_one() {
        let store = nn::VarStore::new(Device::Cpu);
        let attention = Attention::new(&store.root(), 64, 2, 7);
        for mut parameter in store.trainable_variables() {
            let _ = tch::no_grad(|| parameter.normal_(0.0, 0.1));
        }
        Compute::new(Device::Cpu, Precision::Bf16).convert(&store);
        let x = Tensor::randn([1, 7, 7, 64], (Kind::BFloat16, Device::Cpu));
        let in_training = tch::no_grad(|| attention.forward(&x, None));
        let mut store = store;
        store.freeze();
        assert!(in_training.equal(&attention.forward(&x, None)));
    }

    #[test]
    fn rows_taken_in_pieces_give_the_whole() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let grid = Grid {
            query: random(&[4, 5, 3, 8]),
            key: random(&[4, 8, 15]),
            value: random(&[4, 15, 8]),
            table_h: random(&[5, 5, 8]),
            table_w: random(&[3, 3, 8]),
        };
        let pieces = [grid.attend(0, 2), grid.attend(2, 2), grid.attend(4, 1)];
        assert!(Tensor::cat(&pieces, 1).allclose(&grid.attend(0, 5), 1e-5, 1e-6, false));
    }
}
