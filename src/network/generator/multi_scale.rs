//! MSPGenerator: auxiliary masks from several levels of the encoder's features (paper section 3.2, Figure 2).

use tch::{Tensor, nn};

use super::AuxiliaryMasks;
use super::decoder::Decoder;
use super::plan::Widths;
use crate::network::TapShape;

/// Inputs and outputs of a generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MspGeneratorConfig {
    /// Features of the encoder, shallowest first, the embedding last.
    pub taps: Vec<TapShape>,
    /// N, background included.
    pub classes: i64,
    /// Size of the masks, `[imgH, imgW]`, pixels.
    pub patch: [i64; 2],
    /// Slices of a window, D.
    pub depth: i64,
    /// Channels of the levels.
    pub widths: Widths,
}

/// Convolutions and transposed convolutions from the deepest tap to the size of the masks.
#[derive(Debug)]
pub struct MspGenerator {
    decoder: Decoder,
}

impl MspGenerator {
    /// A generator for `config.taps`, which must not be empty.
    pub fn new(vs: &nn::Path, config: &MspGeneratorConfig) -> Self {
        Self { decoder: Decoder::new(vs, config, true) }
    }

    /// Taps, each `[B·D, C, h, w]`, shallowest first, to masks.
    pub fn forward(&self, taps: &[Tensor]) -> AuxiliaryMasks {
        self.decoder.forward(taps)
    }
}
