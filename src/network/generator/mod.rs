//! Generators of auxiliary masks: the MSPGenerator (paper section 3.2, Figure 2) and the stacked convolutions that
//! the paper compares it with (Table 3, S1).
//!
//! The paper leaves some details open; these are our choices. Convolutions are 3×3 within a slice, which suits
//! medical volumes with thick slices and CPUs. Depth enters through one 3×3×3 convolution at the deepest level and
//! through the normalisation: its statistics cover all slices of a window, so an empty slice stays darker than its
//! neighbours. Each level has a head (1×1 convolution) for deep supervision.

mod decoder;
mod layers;
mod multi_scale;
mod plan;
mod stacked;

use tch::{Tensor, nn};

pub use multi_scale::{MspGenerator, MspGeneratorConfig};
pub use plan::Widths;
pub use stacked::StackedGenerator;

use crate::bundle::GeneratorKind;

/// Masks of all classes, as logits.
#[derive(Debug)]
pub struct AuxiliaryMasks {
    /// `[B, N, D, imgH, imgW]`.
    pub logits: Tensor,
    /// Logits of the deeper levels for deep supervision, finest first, each `[B, N, D, h_i, w_i]`.
    pub deep: Vec<Tensor>,
}

/// Loss weights of `levels` levels, the final output first: 1, 1/2, 1/4, …, divided by their sum.
pub fn deep_supervision_weights(levels: usize) -> Vec<f64> {
    let halves: Vec<f64> = (0..levels).map(|level| 0.5f64.powi(level as i32)).collect();
    let sum: f64 = halves.iter().sum();
    halves.iter().map(|weight| weight / sum).collect()
}

/// The generator of a network.
#[derive(Debug)]
pub enum Generator {
    /// Uses all taps.
    MultiScale(MspGenerator),
    /// Uses only the embedding.
    Stacked(StackedGenerator),
}

impl Generator {
    /// A generator of the given kind; `None` if prompts come from outside.
    pub fn new(vs: &nn::Path, kind: GeneratorKind, config: &MspGeneratorConfig) -> Option<Self> {
        match kind {
            GeneratorKind::None => None,
            GeneratorKind::Stacked => Some(Self::Stacked(StackedGenerator::new(vs, config))),
            GeneratorKind::MultiScale => Some(Self::MultiScale(MspGenerator::new(vs, config))),
        }
    }

    /// All taps of the encoder, each `[B·D, C, h, w]`, shallowest first, to masks.
    pub fn forward(&self, taps: &[Tensor]) -> AuxiliaryMasks {
        match self {
            Self::MultiScale(generator) => generator.forward(taps),
            Self::Stacked(generator) => generator.forward(taps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_supervision_weights_halve_and_sum_to_one() {
        let weights = deep_supervision_weights(3);
        assert_eq!(weights, [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]);
        assert_eq!(deep_supervision_weights(0), [0.0; 0]);
    }
}
