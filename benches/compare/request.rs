//! The requests of compare.py.

use std::path::PathBuf;

use self_prompt_sam::bundle::Backbone;
use serde::Deserialize;

/// One line of stdin.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Builds a network and reads its weights and input; answers `{"precision": "bf16"}`.
    Load(Load),
    /// Computes once; answers `{"seconds": 1.5}`.
    Run,
    /// Writes the outputs of the last run as safetensors; answers `{}`.
    Save { output: PathBuf },
}

/// A network and its input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// What to compute.
    pub kind: Kind,
    /// Backbone as `model.yml` spells it.
    pub backbone: Backbone,
    /// Side of the square input, pixels.
    pub image_size: i64,
    /// Slices in a window, D.
    pub depth: usize,
    /// Classes in a slice, N; only decoding depends on it.
    pub classes: usize,
    /// `auto`, `fp32`, `bf16` or `fp16`.
    pub precision: String,
    /// Frozen weights under SAM's names.
    pub weights: PathBuf,
    /// Weights of the adapters, for training.
    pub trained: Option<PathBuf>,
    /// safetensors: `image` `[D, 3, S, S]`; for training also `gradient_0` to `gradient_4`, of attention stages
    /// `[D, h·w, C]`, else `[D, C, h, w]`; for decoding `embedding` `[D, 256, h, w]` and `boxes` `[D, N, 4]`.
    pub input: PathBuf,
}

/// What to compute.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Image to `embedding`.
    Encode,
    /// Image and gradients w.r.t. the taps to gradients w.r.t. the adapters in every block; the backbone is frozen.
    Train,
    /// Embedding and boxes to mask logits `masks` `[D, N, 4h, 4w]`.
    Decode,
}
