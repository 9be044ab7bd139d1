//! The generator of auxiliary masks in training.

use tch::Tensor;

use super::encoder::received;
use super::part::{Part, PartName};
use crate::compute::Compute;
use crate::network::segmenter::{AuxiliaryGenerator, SegmenterError};
use crate::tensor::channels_last;
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;
use crate::training::optimise::LossConfig;

/// The generator with its optimiser.
pub struct GeneratorPart {
    generator: AuxiliaryGenerator,
    loss: LossConfig,
    /// Parameters and optimiser.
    pub part: Part,
}

/// The generator's results for a window.
#[derive(Debug)]
pub struct Generated {
    /// Loss of the window, unweighted.
    pub loss: f64,
    /// Auxiliary masks without a graph, logits `[D, N, imgH, imgW]`.
    pub masks: Tensor,
    /// Gradient w.r.t. each level of the features.
    pub taps_gradient: Vec<Tensor>,
}

impl GeneratorPart {
    /// Newly initialised weights.
    ///
    /// # Errors
    /// A configuration without generator.
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        let bundle = config.model.without_files();
        let (part, generator) = Part::new(PartName::Generator, config, compute, |_, trained| {
            AuxiliaryGenerator::new(&bundle, trained)
        })?;
        let generator = generator.ok_or_else(|| SegmenterError::NoPart {
            model: config.model.name.clone(),
            part: "prompt generator",
            hint: "set model.network.generator",
        })?;
        Ok(Self { generator, loss: config.loss, part })
    }

    /// Features `[D, C, h, w]`, shallowest first, to masks `[D, N, imgH, imgW]`.
    ///
    /// # Errors
    /// Features of another shape.
    pub fn forward(&self, taps: &[Tensor]) -> Result<Tensor, TrainingError> {
        Ok(self.generator.forward(taps)?)
    }

    /// Learns from a window: its features and labels `[D, imgH, imgW]` int64. `share` is the window's weight in the
    /// step, 1 / windows. Accumulates the gradients of the parameters.
    ///
    /// # Errors
    /// Features of another shape.
    pub fn learn(&self, taps: &[Tensor], labels: &Tensor, share: f64) -> Result<Generated, TrainingError> {
        let taps: Vec<Tensor> = taps.iter().map(|tap| received(&channels_last(tap))).collect();
        let masks = self.generator.auxiliary_masks(&taps)?;
        let labels = labels.to_device(masks.logits.device()).unsqueeze(0);
        let loss = self.loss.of_auxiliary(&masks, &labels);
        (&loss * (share * self.loss.auxiliary)).backward();
        let gradient = |tap: &Tensor| match tap.grad() {
            gradient if gradient.defined() => gradient,
            _ => tap.zeros_like(),
        };
        Ok(Generated {
            loss: loss.double_value(&[]),
            masks: masks.logits.detach().squeeze_dim(0).transpose(0, 1),
            taps_gradient: taps.iter().map(gradient).collect(),
        })
    }
}
