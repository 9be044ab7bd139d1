//! Positional encoding by random spatial frequencies (`PositionEmbeddingRandom` in
//! `segment_anything/modeling/prompt_encoder.py`).

use std::f64::consts::TAU;

use tch::{Kind, Tensor, nn};

/// Fixed random frequencies, the same for prompts and the image grid. Always computed in fp32, because the
/// frequencies turn the rounding error of a coordinate into a large phase error.
#[derive(Debug)]
pub(super) struct RandomPosition {
    frequencies: Tensor,
}

impl RandomPosition {
    /// For `channels` channels. The frequencies are a buffer: stored with the weights but not trained.
    pub(super) fn new(vs: &nn::Path, channels: i64) -> Self {
        let frequencies = Tensor::randn([2, channels / 2], (Kind::Float, vs.device()));
        Self { frequencies: vs.add("positional_encoding_gaussian_matrix", frequencies, false) }
    }

    /// Positions `[…, 2]` as (x, y) in 0 to 1, to `[…, C]` fp32.
    pub(super) fn forward(&self, positions: &Tensor) -> Tensor {
        let centred: Tensor = positions.to_kind(Kind::Float) * 2.0 - 1.0;
        let phase = centred.matmul(&self.frequencies.to_kind(Kind::Float)) * TAU;
        Tensor::cat(&[phase.sin(), phase.cos()], -1)
    }

    /// Encoding of the pixel centres of a square grid, `[C, grid, grid]` fp32.
    pub(super) fn of_grid(&self, grid: i64) -> Tensor {
        let options = (Kind::Float, self.frequencies.device());
        let centres: Tensor = (Tensor::arange(grid, options) + 0.5) / grid;
        let x = centres.unsqueeze(0).expand([grid, grid], false);
        let y = centres.unsqueeze(1).expand([grid, grid], false);
        self.forward(&Tensor::stack(&[x, y], -1)).permute([2, 0, 1])
    }
}
