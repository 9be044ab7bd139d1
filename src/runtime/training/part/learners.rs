//! The work of the three parts of the network on a window.

use std::collections::BTreeMap;

use eyre::{Result, bail, eyre};
use tch::{Kind, Tensor};

use super::learner::Learner;
use crate::compute::Compute;
use crate::message::WireKind;
use crate::network::sam::Encoded;
use crate::runtime::assembly::Window;
use crate::runtime::input::{Input, InputKind};
use crate::runtime::prompt_stage::decode_window_prompts;
use crate::runtime::stage::Emit;
use crate::training::{
    DecoderPart, EncodedGradients, EncoderPart, GeneratorPart, Part, Stage, TrainingConfig, TrainingError,
};

const fn activations(name: &'static str) -> Input {
    Input { name, kind: InputKind::Activations }
}

const SLICES: Input = Input { name: "slices", kind: InputKind::Floats };
const LABELS: Input = Input { name: "labels", kind: InputKind::Labels };
const FEATURES: Input = activations("features");
const EMBEDDING: Input = activations("embedding");
const PROMPTS: Input = Input { name: "prompts", kind: InputKind::Prompts };
const FEATURES_GRAD: Input = activations("features_grad");
const EMBEDDING_GRAD: Input = activations("embedding_grad");

/// `[D, C, h, w]` in the order in which it is sent between the parts, `[D, h, w, C]`: our encoders have it in this
/// order in memory, and the receiver computes fastest with it, so nothing is reordered.
fn pixels_first(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1])
}

/// The way back, of what came on `input`.
fn channels_first(x: &Tensor, input: Input) -> Result<Tensor> {
    if x.dim() != 4 {
        bail!("input `{}`: a run of slices has the shape {:?}, expected [n, h, w, C]", input.name, x.size());
    }
    Ok(x.permute([0, 3, 1, 2]))
}

/// Sends the levels of an output, each `[D, C, h, w]`.
fn emit_levels(
    emit: &mut Emit<'_>,
    output: &'static str,
    window: &Window,
    levels: &[Tensor],
    wire: WireKind,
) {
    let count = levels.len() as i64;
    for (level, tensor) in (0..).zip(levels) {
        emit.runs(output, &window.header, &pixels_first(tensor), wire, Some((level, count)));
    }
}

/// All levels of an input as they were before they travelled.
fn levels_of(window: &Window, input: Input) -> Result<Vec<Tensor>> {
    window.levels(input.name).iter().map(|level| channels_first(level, input)).collect()
}

/// Labels `[D, H, W]` of a window, for the losses.
fn labels_of(window: &Window) -> Tensor {
    window.tensor(LABELS.name, 0).to_kind(Kind::Int64)
}

/// MAdapter and image encoder: a forward pass, and a backward pass when the gradients have arrived.
pub struct EncoderLearner {
    encoder: EncoderPart,
    compute: Compute,
    /// Activations with their graphs, of the windows whose gradients have not yet arrived.
    waiting: BTreeMap<i64, Encoded>,
}

impl EncoderLearner {
    /// Built as configured.
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
            let wire = self.compute.exact_wire();
            emit_levels(emit, "features", window, &encoded.taps, wire);
            if stage == Stage::Full {
                emit_levels(emit, "embedding", window, &encoded.for_decoder(), wire);
            }
            self.waiting.insert(segment, encoded);
            return Ok(0.0);
        }
        let encoded = self.waiting.remove(&segment);
        let encoded = encoded.ok_or_else(|| eyre!("gradients for a window that was not encoded"))?;
        let gradients = EncodedGradients {
            taps: levels_of(window, FEATURES_GRAD)?,
            embedding: if stage == Stage::Full { levels_of(window, EMBEDDING_GRAD)? } else { Vec::new() },
        };
        gradients.backward(encoded)?;
        Ok(0.0)
    }
}

/// Generator of auxiliary masks.
pub struct GeneratorLearner {
    generator: GeneratorPart,
    compute: Compute,
}

impl GeneratorLearner {
    /// Built as configured.
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
        let levels = levels_of(window, FEATURES)?;
        let taps: Vec<Tensor> = levels.iter().map(|level| self.compute.receive(level)).collect();
        let generated = self.generator.learn(&taps, &labels_of(window), share)?;
        if stage == Stage::Full {
            emit.slices("aux_masks", &window.header, &generated.masks, WireKind::Float32, None);
        }
        emit_levels(emit, "features_grad", window, &generated.taps_gradient, self.compute.exact_wire());
        Ok(generated.loss)
    }
}

/// Prompt encoder, mask decoder and MC-Adapter; idle while only the generator's loss is used.
pub struct DecoderLearner {
    decoder: DecoderPart,
    compute: Compute,
}

impl DecoderLearner {
    /// Built as configured.
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
        let levels = levels_of(window, EMBEDDING)?;
        let embedding: Vec<Tensor> = levels.iter().map(|level| self.compute.receive(level)).collect();
        let decoded = self.decoder.learn(&embedding, &prompts, &labels_of(window), share)?;
        let gradient = &decoded.embedding_gradient;
        emit_levels(emit, "embedding_grad", window, gradient, self.compute.exact_wire());
        Ok(decoded.loss)
    }
}
