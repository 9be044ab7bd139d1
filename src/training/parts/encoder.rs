//! The encoder in training.

use tch::{Kind, Tensor};

use super::part::{Part, PartName};
use crate::compute::Compute;
use crate::network::sam::Encoded;
use crate::network::segmenter::Encoder;
use crate::tensor::{as_laid_out, with_backward};
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;

/// MAdapter and image encoder with their optimiser.
pub struct EncoderPart {
    encoder: Encoder,
    /// Parameters and optimiser.
    pub part: Part,
}

/// The gradients w.r.t. the outputs of an [`EncoderPart`].
#[derive(Debug)]
pub struct EncodedGradients {
    /// W.r.t. each level of the features, in the same order and shapes.
    pub taps: Vec<Tensor>,
    /// W.r.t. what the mask decoder got ([`Encoded::for_decoder`]); none while the decoder is not trained.
    pub embedding: Vec<Tensor>,
}

impl EncodedGradients {
    /// Fails if these are not gradients of `taps` and `for_decoder`.
    ///
    /// # Errors
    /// [`TrainingError::Gradients`].
    fn check(&self, taps: &[Tensor], for_decoder: &[Tensor]) -> Result<(), TrainingError> {
        let shapes = |one: &[Tensor], other: &[Tensor]| -> Vec<_> {
            one.iter().chain(other).map(Tensor::size).collect()
        };
        let (found, expected) = (shapes(&self.taps, &self.embedding), shapes(taps, for_decoder));
        if found == expected { Ok(()) } else { Err(TrainingError::Gradients { found, expected }) }
    }

    /// Accumulates the gradients of the parameters for a window: a backward pass from the sum of each activation
    /// times its gradient. The value of the sum is not needed and not computed. The graph may keep the gradients,
    /// since an activation is no parameter.
    ///
    /// # Errors
    /// [`TrainingError::Gradients`].
    pub fn backward(&self, encoded: Encoded) -> Result<(), TrainingError> {
        let for_decoder = if self.embedding.is_empty() { Vec::new() } else { encoded.for_decoder() };
        let taps = encoded.taps;
        self.check(&taps, &for_decoder)?;
        let pairs = taps.iter().zip(&self.taps).chain(for_decoder.iter().zip(&self.embedding));
        let terms =
            pairs.filter(|(activation, _)| activation.requires_grad()).map(|(activation, gradient)| {
                let gradient = as_laid_out(gradient, activation);
                let scalar = Tensor::zeros([], (Kind::Float, activation.device()));
                with_backward(activation, scalar, move |_| gradient.shallow_clone())
            });
        // If no weight before the features is trained, there is nothing to do.
        if let Some(sum) = terms.reduce(|sum, term| sum + term) {
            sum.backward();
        }
        Ok(())
    }
}

impl EncoderPart {
    /// Newly initialised or loaded weights, as configured.
    ///
    /// # Errors
    /// Those of [`Part::new`].
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        let bundle = config.model.without_files();
        let (part, encoder) = Part::new(PartName::Encoder, config, compute, |sam, trained| {
            Encoder::new(&bundle, sam, trained)
        })?;
        Ok(Self { encoder, part })
    }

    /// Slices `[D, M, imgH, imgW]` to features. The result keeps its graph until [`EncodedGradients::backward`];
    /// only its values go to the other parts.
    ///
    /// # Errors
    /// Slices of another shape.
    pub fn forward(&self, slices: &Tensor) -> Result<Encoded, TrainingError> {
        Ok(self.encoder.forward(slices, None)?)
    }
}

/// An activation as another part receives it: detached, as the leaf of a new graph.
pub fn received(activation: &Tensor) -> Tensor {
    activation.detach().set_requires_grad(true)
}
