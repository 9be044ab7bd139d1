//! The generator that the paper compares the MSPGenerator with (Table 3, S1): stacked convolutions and transposed
//! convolutions on the image embedding.

use tch::{Tensor, nn};

use super::decoder::Decoder;
use super::{AuxiliaryMasks, MspGeneratorConfig};

/// Convolution blocks and 2× upsamplings of the last tap, slice by slice.
#[derive(Debug)]
pub struct StackedGenerator {
    decoder: Decoder,
}

impl StackedGenerator {
    /// A generator for the last of `config.taps`, which must not be empty.
    pub fn new(vs: &nn::Path, config: &MspGeneratorConfig) -> Self {
        let embedding = config.taps.last().copied();
        let config = MspGeneratorConfig { taps: embedding.into_iter().collect(), ..config.clone() };
        Self { decoder: Decoder::new(vs, &config, false) }
    }

    /// Takes all taps like [`MspGenerator::forward`](super::MspGenerator::forward), but uses only the last one.
    pub fn forward(&self, taps: &[Tensor]) -> AuxiliaryMasks {
        self.decoder.forward(&taps[taps.len().saturating_sub(1)..])
    }
}
