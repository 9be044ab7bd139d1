//! All parts in one process, separated at the same boundaries as in a dataflow: the reference for tests and timings
//! of the dataflow.

mod export;
mod validate;

pub use export::export_bundle;
pub use validate::{DiceFigures, Validated, Validation, Validator, by_class};

use std::collections::BTreeMap;

use ndarray::{Array3, Array4};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::config::TrainingConfig;
use super::data::Sample;
use super::error::TrainingError;
use super::optimise::Stage;
use super::parts::{DecoderPart, EncodedGradients, EncoderPart, GeneratorPart, Part};
use super::prompts::TrainingPrompts;
use super::state::Checkpoints;
use crate::compute::Compute;
use crate::network::segmenter::prompts_from_masks;
use crate::weights::Tensors;

/// The network in training.
pub struct Trainer {
    config: TrainingConfig,
    /// MAdapter and image encoder.
    pub encoder: EncoderPart,
    /// Generator of auxiliary masks.
    pub generator: GeneratorPart,
    /// Prompt encoder, mask decoder, MC-Adapter.
    pub decoder: DecoderPart,
    prompts: TrainingPrompts,
    step: u64,
}

/// The results of a step: means over its windows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step, from 0.
    pub step: u64,
    /// Loss of the auxiliary masks, unweighted.
    pub auxiliary_loss: f64,
    /// Loss of the final output, unweighted; `None` while the decoder is not trained.
    pub final_loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Gradient norms of encoder, generator and decoder.
    pub gradient_norms: [f64; 3],
}

/// The network's outputs for a window: logits `[D, N, imgH, imgW]`.
#[derive(Debug)]
pub struct Segmented {
    /// The generator's output.
    pub auxiliary: Tensor,
    /// The decoder's output; `None` while the decoder is not trained.
    pub output: Option<Tensor>,
}

impl Trainer {
    /// A network at the start of its training.
    ///
    /// # Errors
    /// Weights that are missing, wrong or damaged.
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        Ok(Self {
            encoder: EncoderPart::new(config, compute)?,
            generator: GeneratorPart::new(config, compute)?,
            decoder: DecoderPart::new(config, compute)?,
            prompts: TrainingPrompts::of_config(config),
            config: config.clone(),
            step: 0,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// Number of steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Encoder, generator, decoder.
    pub fn parts(&self) -> [&Part; 3] {
        [&self.encoder.part, &self.generator.part, &self.decoder.part]
    }

    /// Learns from the windows of one step.
    ///
    /// # Errors
    /// [`TrainingError::NotFinite`], before any parameter has changed; windows of another shape.
    pub fn step(&mut self, windows: &[Sample]) -> Result<StepReport, TrainingError> {
        let step = self.step;
        let not_finite = |what, value| TrainingError::NotFinite { step, what, value };
        let finite =
            |what, value: f64| if value.is_finite() { Ok(value) } else { Err(not_finite(what, value)) };
        let stage = self.config.schedule.stage(step);
        let share = 1.0 / windows.len().max(1) as f64;
        let (mut auxiliary_loss, mut final_loss) = (0.0, None);
        for (number, window) in (step * windows.len() as u64..).zip(windows) {
            let (slices, labels) = (slices_of(&window.images), labels_of(&window.labels));
            let encoded = self.encoder.forward(&slices)?;
            let generated = self.generator.learn(&encoded.taps, &labels, share)?;
            auxiliary_loss += share * finite("the loss of the auxiliary masks", generated.loss)?;
            let embedding_gradient = match stage {
                Stage::GeneratorOnly => Vec::new(),
                Stage::Full => {
                    let prompts = self.prompts.of_window(number, &generated.masks, window.labels.view())?;
                    let decoded = self.decoder.learn(&encoded.for_decoder(), &prompts, &labels, share)?;
                    let loss = finite("the loss of the final output", decoded.loss)?;
                    *final_loss.get_or_insert(0.0) += share * loss;
                    decoded.embedding_gradient
                }
            };
            let gradients = EncodedGradients { taps: generated.taps_gradient, embedding: embedding_gradient };
            gradients.backward(encoded)?;
        }
        let mut gradient_norms = [0.0; 3];
        for (norm, part) in gradient_norms.iter_mut().zip(self.parts()) {
            *norm = finite("the norm of the gradients", part.gradient_norm())?;
        }
        let learning_rate = self.config.learning_rate.at(step, &self.config.schedule);
        let [of_encoder, of_generator, of_decoder] = gradient_norms;
        self.encoder.part.update(learning_rate, of_encoder);
        self.generator.part.update(learning_rate, of_generator);
        if stage == Stage::Full {
            self.decoder.part.update(learning_rate, of_decoder);
        }
        self.step += 1;
        Ok(StepReport { step, auxiliary_loss, final_loss, learning_rate, gradient_norms })
    }

    /// Segments a window `[M, D, H, W]` as the nodes do; with the decoder's output if the stage has one.
    ///
    /// # Errors
    /// A window of another shape.
    pub fn segment(&self, window: &Array4<f32>, stage: Stage) -> Result<Segmented, TrainingError> {
        tch::no_grad(|| {
            let encoded = self.encoder.forward(&slices_of(window))?;
            let auxiliary = self.generator.forward(&encoded.taps)?;
            let output = match stage {
                Stage::GeneratorOnly => None,
                Stage::Full => {
                    let prompts = prompts_from_masks(self.prompts.strategy(), &auxiliary)?;
                    Some(self.decoder.forward(&encoded.for_decoder(), &prompts)?)
                }
            };
            Ok(Segmented { auxiliary, output })
        })
    }

    /// Calls `use_them` with the averages of the parameters in the network, as configured, instead of the parameters.
    pub fn with_averages<T>(&mut self, use_them: impl FnOnce(&Self) -> T) -> T {
        self.exchange_averages();
        let result = use_them(self);
        self.exchange_averages();
        result
    }

    fn exchange_averages(&mut self) {
        for part in [&mut self.encoder.part, &mut self.generator.part, &mut self.decoder.part] {
            part.exchange_averages();
        }
    }

    /// Writes the shards of a checkpoint after the steps done so far; returns their sha256 by part.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_shards(&self, checkpoints: &Checkpoints) -> Result<BTreeMap<String, String>, TrainingError> {
        let write = |part: &Part| {
            let name = part.name().name();
            Ok((name.to_owned(), checkpoints.write_shard(self.step, name, &part.shard())?))
        };
        self.parts().into_iter().map(write).collect()
    }

    /// Restores the shards of a checkpoint after `step` steps.
    ///
    /// # Errors
    /// [`TrainingError::Shard`] if they belong to another network.
    pub fn restore(&mut self, step: u64, shards: &BTreeMap<String, Tensors>) -> Result<(), TrainingError> {
        for part in [&mut self.encoder.part, &mut self.generator.part, &mut self.decoder.part] {
            let name = part.name().name();
            let wrong = |reason| TrainingError::Shard { path: name.into(), reason };
            let shard = shards.get(name).ok_or_else(|| wrong("the checkpoint has no such shard".into()))?;
            part.restore(shard).map_err(wrong)?;
        }
        self.step = step;
        Ok(())
    }

    /// Fails if frozen weights have changed.
    ///
    /// # Errors
    /// [`TrainingError::FrozenChanged`].
    pub fn check_frozen(&self) -> Result<(), TrainingError> {
        self.parts().into_iter().try_for_each(Part::check_frozen)
    }
}

/// `[M, D, H, W]` to the encoder's `[D, M, H, W]`.
pub fn slices_of(images: &Array4<f32>) -> Tensor {
    let (modalities, depth, height, width) = images.dim();
    let shape = [modalities, depth, height, width].map(|size| size as i64);
    let images = images.as_standard_layout();
    Tensor::from_slice(images.as_slice().unwrap_or_default()).view(shape).transpose(0, 1).contiguous()
}

/// `[D, H, W]` as int64, for the losses.
pub fn labels_of(labels: &Array3<u8>) -> Tensor {
    let (depth, height, width) = labels.dim();
    let labels = labels.as_standard_layout();
    Tensor::from_slice(labels.as_slice().unwrap_or_default())
        .view([depth, height, width].map(|size| size as i64))
        .to_kind(Kind::Int64)
}
