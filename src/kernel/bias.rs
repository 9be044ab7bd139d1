//! Position biases, prepared for the attention kernel.

use tch::Tensor;

use super::shape::{AttentionShape, Cut, PositionBias};
use super::tile::{LANES, Matrix};
use super::values::{bf16, pack};

/// A [`PositionBias`], prepared for the kernel.
pub(super) enum Bias {
    /// The tables of [`PositionBias::Tables`].
    Tables([Tensor; 4]),
    /// For each axis, a table `[c / 2, keys]` of bf16 pairs per query row or column. Keys are padded to whole
    /// registers.
    Decomposed([PackedTable; 2]),
}

/// A [`Bias`] that threads can share.
#[derive(Clone, Copy)]
pub(super) enum BiasView<'a> {
    Tables([&'a [f32]; 4]),
    Decomposed(&'a [PackedTable; 2]),
}

/// The vectors of relative positions along one axis.
pub(super) struct PackedTable {
    data: Vec<u32>,
    /// Number of keys, padded.
    pub stride: usize,
    pub pairs: usize,
}

impl PackedTable {
    /// Packs a table `[side, side, c]`.
    fn new(table: &Tensor, side: usize, channels: usize) -> Self {
        let (stride, pairs) = (side.next_multiple_of(LANES), channels / 2);
        let contiguous = table.contiguous();
        let values = bf16(&contiguous);
        let mut data = vec![0; side * pairs * stride];
        for query in 0..side {
            for key in 0..side {
                let vector = &values[(query * side + key) * channels..][..channels];
                for (pair, &[low, high]) in vector.as_chunks::<2>().0.iter().enumerate() {
                    data[(query * pairs + pair) * stride + key] = pack(low, high);
                }
            }
        }
        Self { data, stride, pairs }
    }

    pub fn of_query(&self, query: usize) -> Matrix<'_> {
        let size = self.pairs * self.stride;
        Matrix { data: &self.data[query * size..][..size], stride: self.stride }
    }
}

impl Bias {
    pub fn new(shape: &AttentionShape, bias: PositionBias) -> Self {
        let channels = shape.head_channels;
        match bias {
            PositionBias::Tables(tables) => Self::Tables(std::array::from_fn(|index| {
                let is_needed = shape.inside(Cut::ALL[index]).is_some();
                if is_needed { tables[index].shallow_clone() } else { Tensor::new() }
            })),
            PositionBias::Decomposed { along_h, along_w } => Self::Decomposed([
                PackedTable::new(along_h, shape.window[0], channels),
                PackedTable::new(along_w, shape.window[1], channels),
            ]),
        }
    }

    pub fn view(&self) -> BiasView<'_> {
        match self {
            Self::Tables(tables) => BiasView::Tables(tables.each_ref().map(|table| match table.defined() {
                // SAFETY: a contiguous fp32 tensor on the CPU holds `numel` values and lives as long as the
                // borrow.
                true => unsafe { std::slice::from_raw_parts(table.data_ptr().cast::<f32>(), table.numel()) },
                false => &[],
            })),
            Self::Decomposed(tables) => BiasView::Decomposed(tables),
        }
    }
}
