//! The generator that the MSPGenerator is compared with (paper Table 3, S1): convolutions and transposed
//! convolutions stacked on the image embedding.

use tch::{Tensor, nn};

use super::decoder::Decoder;
use super::{AuxiliaryMasks, MspGeneratorConfig};

/// Convolution blocks and doublings on the last tap alone, slice by slice.
#[derive(Debug)]
pub struct StackedGenerator {
    decoder: Decoder,
}

impl StackedGenerator {
    /// A generator for the last of `config.taps`, of which there must be at least one.
    pub fn new(vs: &nn::Path, config: &MspGeneratorConfig) -> Self {
        let embedding = config.taps.last().copied();
        let config = MspGeneratorConfig { taps: embedding.into_iter().collect(), ..config.clone() };
        Self { decoder: Decoder::new(vs, &config, false) }
    }

    /// All taps as for [`MspGenerator::forward`](super::MspGenerator::forward); the last is used.
    pub fn forward(&self, taps: &[Tensor]) -> AuxiliaryMasks {
        self.decoder.forward(&taps[taps.len().saturating_sub(1)..])
    }
}
