//! The decoder in training.

use tch::Tensor;

use super::encoder::received;
use super::part::{Part, PartName};
use crate::compute::Compute;
use crate::network::segmenter::{DecodedMasks, Decoder};
use crate::prompt::SlicePrompts;
use crate::tensor::channels_last;
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;
use crate::training::optimise::LossConfig;

/// Prompt encoder, mask decoder and MC-Adapter with their optimiser.
pub struct DecoderPart {
    decoder: Decoder,
    loss: LossConfig,
    /// Parameters and optimiser.
    pub part: Part,
}

/// The decoder's results for a window.
#[derive(Debug)]
pub struct Decoded {
    /// Loss of the output for the window, unweighted.
    pub loss: f64,
    /// Gradients w.r.t. the embedding and the finer features.
    pub embedding_gradient: Vec<Tensor>,
}

impl DecoderPart {
    /// Newly initialised or loaded weights, as configured.
    ///
    /// # Errors
    /// Those of [`Part::new`].
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        let bundle = config.model.without_files();
        let (part, decoder) = Part::new(PartName::Decoder, config, compute, |sam, trained| {
            Decoder::new(&bundle, sam, trained)
        })?;
        Ok(Self { decoder, loss: config.loss, part })
    }

    /// Height and width of mask prompts.
    pub fn mask_size(&self) -> [usize; 2] {
        self.decoder.mask_size()
    }

    /// Embedding `[D, 256, h, w]`, finer features if the network has them, and the prompts of D slices to logits
    /// `[D, N, imgH, imgW]`.
    ///
    /// # Errors
    /// Wrong shapes, or prompts that cannot be combined.
    pub fn forward(&self, embedding: &[Tensor], prompts: &[SlicePrompts]) -> Result<Tensor, TrainingError> {
        Ok(self.decoder.forward(embedding, prompts)?)
    }

    /// Learns from a window: its embedding (with finer features, as [`DecoderPart::forward`] takes it), prompts and
    /// labels `[D, imgH, imgW]` int64. `share` is the window's weight in the step, 1 / windows. Accumulates the gradients
    /// of the parameters. Prompts have no gradient.
    ///
    /// # Errors
    /// Those of [`DecoderPart::forward`].
    pub fn learn(
        &self,
        embedding: &[Tensor],
        prompts: &[SlicePrompts],
        labels: &Tensor,
        share: f64,
    ) -> Result<Decoded, TrainingError> {
        let embedding: Vec<Tensor> = embedding.iter().map(|level| received(&channels_last(level))).collect();
        let DecodedMasks { masks, logits } = self.decoder.decoded(&embedding, prompts)?;
        let [masks, logits] = [masks, logits].map(|x| x.transpose(0, 1).unsqueeze(0)); // [1, N, D, H, W]
        let labels = labels.to_device(logits.device()).unsqueeze(0);
        let loss = self.loss.of_logits(&logits, &labels);
        let mut weighted = &loss * (share * self.loss.final_output);
        if self.loss.decoder_masks > 0.0 {
            weighted += self.loss.of_masks(&masks, &labels) * (share * self.loss.decoder_masks);
        }
        weighted.backward();
        Ok(Decoded {
            loss: loss.double_value(&[]),
            embedding_gradient: embedding.iter().map(Tensor::grad).collect(),
        })
    }
}
