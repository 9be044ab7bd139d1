//! The prompt extractor in training.

use eyre::{Result, WrapErr};
use ndarray::ArrayView3;

use crate::compute::Compute;
use crate::message::encode_prompts;
use crate::runtime::assembly::Window;
use crate::runtime::input::{Input, InputKind};
use crate::runtime::stage::{Emit, Stage};
use crate::tensor::view_values;
use crate::training::TrainingPrompts;

const AUX_MASKS: Input = Input { name: "aux_masks", kind: InputKind::Floats };
const LABELS: Input = Input { name: "labels", kind: InputKind::Labels };

/// Inputs `aux_masks` (logits `[N, H, W]`) and `labels` (`[H, W]`), output `prompts`.
pub struct TrainingPromptStage {
    prompts: TrainingPrompts,
}

impl TrainingPromptStage {
    /// A stage with these prompts.
    pub fn new(prompts: TrainingPrompts) -> Self {
        Self { prompts }
    }
}

impl Stage for TrainingPromptStage {
    fn inputs(&self) -> &'static [Input] {
        &[AUX_MASKS, LABELS]
    }

    fn network(&self) -> Option<Compute> {
        None
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        let labels = window.tensor(LABELS.name, 0);
        let masks = window.tensor(AUX_MASKS.name, 0);
        let shape: Vec<usize> = labels.size().iter().map(|&size| size as usize).collect();
        let number = u64::try_from(window.header.segment_id).wrap_err("metadata key `segment_id`")?;
        let slices = view_values(&labels, |values: &[u8]| -> Result<_> {
            let shape: [usize; 3] = shape.try_into().map_err(|_| eyre::eyre!("labels are not [D, H, W]"))?;
            let labels = ArrayView3::from_shape(shape, values)?;
            Ok(self.prompts.of_window(number, &masks, labels)?)
        })?;
        for (seq, prompts) in (0..).zip(slices) {
            let header = window.header.at(seq, vec![prompts.labels.len() as i64]);
            emit.array("prompts", header, encode_prompts(&prompts));
        }
        Ok(())
    }
}
