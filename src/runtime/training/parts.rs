//! What the three parts of the network do with a window.

use std::collections::BTreeMap;

use eyre::{Result, eyre};
use tch::{Kind, Tensor};

use super::learning::Learner;
use crate::compute::Compute;
use crate::message::WireKind;
use crate::runtime::assembly::{Input, InputKind, Window};
use crate::runtime::prompt_stage::decode_window_prompts;
use crate::runtime::stage::Emit;
use crate::sam::Encoded;
use crate::training::{
    DecoderPart, EncodedGradients, EncoderPart, GeneratorPart, Part, Stage, TrainingConfig, TrainingError,
};

const fn floats(name: &'static str) -> Input {
    Input { name, kind: InputKind::Floats }
}

const SLICES: Input = floats("slices");
const LABELS: Input = Input { name: "labels", kind: InputKind::Labels };
const FEATURES: Input = floats("features");
const EMBEDDING: Input = floats("embedding");
const PROMPTS: Input = Input { name: "prompts", kind: InputKind::Prompts };
const FEATURES_GRAD: Input = floats("features_grad");
const EMBEDDING_GRAD: Input = floats("embedding_grad");

/// Gradients travel in fp32: many are too small for Float16.
const GRADIENT: WireKind = WireKind::Float32;

/// Labels `[D, H, W]` of a window as the losses take them.
fn labels_of(window: &Window) -> Tensor {
    window.tensor(LABELS.name, 0).to_kind(Kind::Int64)
}

/// MAdapter and image encoder: forward, and backward when the gradients have come.
pub struct EncoderLearner {
    encoder: EncoderPart,
    compute: Compute,
    /// Activations with their graphs, of the windows that wait for their gradients.
    waiting: BTreeMap<i64, Encoded>,
}

impl EncoderLearner {
    /// As the configuration says.
    ///
    /// # Errors
    /// Weights that are missing, wrong or damaged.
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        Ok(Self { encoder: EncoderPart::new(config, compute)?, compute, waiting: BTreeMap::new() })
    }
}

impl Learner for EncoderLearner {
    fn part(&mut self) -> &mut Part {
        &mut self.encoder.part
    }

    fn network(&self) -> Compute {
        self.compute
    }

    fn tasks(&self, stage: Stage) -> &'static [&'static [Input]] {
        match stage {
            Stage::GeneratorOnly => &[&[SLICES], &[FEATURES_GRAD]],
            Stage::Full => &[&[SLICES], &[FEATURES_GRAD, EMBEDDING_GRAD]],
        }
    }

    fn learn(
        &mut self,
        task: usize,
        window: &Window,
        stage: Stage,
        _share: f64,
        emit: &mut Emit<'_>,
    ) -> Result<f64> {
        let segment = window.header.segment_id;
        if task == 0 {
            let encoded = self.encoder.forward(&window.tensor(SLICES.name, 0).to_kind(Kind::Float))?;
            let wire = self.compute.wire();
            let levels = encoded.taps.len() as i64;
            for (level, tap) in (0..).zip(&encoded.taps) {
                emit.slices("features", &window.header, tap, wire, Some((level, levels)));
            }
            if stage == Stage::Full {
                emit.slices("embedding", &window.header, &encoded.embedding, wire, None);
            }
            self.waiting.insert(segment, encoded);
            return Ok(0.0);
        }
        let encoded = self.waiting.remove(&segment);
        let encoded = encoded.ok_or_else(|| eyre!("gradients of a window that was not encoded"))?;
        let gradients = EncodedGradients {
            taps: window.levels(FEATURES_GRAD.name),
            embedding: (stage == Stage::Full).then(|| window.tensor(EMBEDDING_GRAD.name, 0)),
        };
        self.encoder.backward(encoded, &gradients);
        Ok(0.0)
    }
}

/// Generator of auxiliary masks.
pub struct GeneratorLearner {
    generator: GeneratorPart,
    compute: Compute,
}

impl GeneratorLearner {
    /// As the configuration says.
    ///
    /// # Errors
    /// A configuration without generator.
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        Ok(Self { generator: GeneratorPart::new(config, compute)?, compute })
    }
}

impl Learner for GeneratorLearner {
    fn part(&mut self) -> &mut Part {
        &mut self.generator.part
    }

    fn network(&self) -> Compute {
        self.compute
    }

    fn tasks(&self, _stage: Stage) -> &'static [&'static [Input]] {
        &[&[FEATURES, LABELS]]
    }

    fn learn(
        &mut self,
        _task: usize,
        window: &Window,
        stage: Stage,
        share: f64,
        emit: &mut Emit<'_>,
    ) -> Result<f64> {
        let levels = window.levels(FEATURES.name);
        let taps: Vec<Tensor> = levels.iter().map(|level| self.compute.receive(level)).collect();
        let generated = self.generator.learn(&taps, &labels_of(window), share)?;
        if stage == Stage::Full {
            emit.slices("aux_masks", &window.header, &generated.masks, WireKind::Float32, None);
        }
        let levels = generated.taps_gradient.len() as i64;
        for (level, gradient) in (0..).zip(&generated.taps_gradient) {
            emit.slices("features_grad", &window.header, gradient, GRADIENT, Some((level, levels)));
        }
        Ok(generated.loss)
    }
}

/// Prompt encoder, mask decoder and MC-Adapter; rests while only the generator's loss counts.
pub struct DecoderLearner {
    decoder: DecoderPart,
    compute: Compute,
}

impl DecoderLearner {
    /// As the configuration says.
    ///
    /// # Errors
    /// Weights that are missing, wrong or damaged.
    pub fn new(config: &TrainingConfig, compute: Compute) -> Result<Self, TrainingError> {
        Ok(Self { decoder: DecoderPart::new(config, compute)?, compute })
    }
}

impl Learner for DecoderLearner {
    fn part(&mut self) -> &mut Part {
        &mut self.decoder.part
    }

    fn network(&self) -> Compute {
        self.compute
    }

    fn tasks(&self, stage: Stage) -> &'static [&'static [Input]] {
        match stage {
            Stage::GeneratorOnly => &[],
            Stage::Full => &[&[EMBEDDING, PROMPTS, LABELS]],
        }
    }

    fn learn(
        &mut self,
        _task: usize,
        window: &Window,
        _stage: Stage,
        share: f64,
        emit: &mut Emit<'_>,
    ) -> Result<f64> {
        let prompts = decode_window_prompts(window, self.decoder.mask_size())?;
        let embedding = self.compute.receive(&window.tensor(EMBEDDING.name, 0));
        let decoded = self.decoder.learn(&embedding, &prompts, &labels_of(window), share)?;
        emit.slices("embedding_grad", &window.header, &decoded.embedding_gradient, GRADIENT, None);
        Ok(decoded.loss)
    }
}
