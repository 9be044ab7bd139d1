//! The stage that turns masks into prompts, with any [`PromptStrategy`].

use eyre::{Result, WrapErr, eyre};
use ndarray::{ArrayView2, ArrayView3};
use tch::Tensor;

use super::assembly::Window;
use super::input::{Input, InputKind};
use super::stage::{Emit, Stage};
use crate::compute::Compute;
use crate::message::{decode_prompts, encode_prompts};
use crate::prompt::{PromptStrategy, SliceMasks, SlicePrompts};
use crate::tensor::view_values;

const AUX_MASKS: Input = Input { name: "aux_masks", kind: InputKind::Floats };
const LABELS: Input = Input { name: "labels", kind: InputKind::Labels };

/// Inputs `aux_masks` (logits `[N, H, W]`) or `labels` (`[H, W]`), output `prompts`.
pub struct PromptStage<S> {
    strategy: S,
    /// Makes the strategy for another size of the model input.
    resize: Option<Resize<S>>,
}

/// A strategy by size of the model input, and the present size.
struct Resize<S> {
    make: fn(i64) -> S,
    image_size: i64,
}

impl<S: PromptStrategy + Send + 'static> PromptStage<S> {
    /// A stage with this strategy.
    pub fn new(strategy: S) -> Self {
        Self { strategy, resize: None }
    }

    /// A stage with the strategy that `make` makes for the side of the square model input, pixels. Messages say how large
    /// it is.
    pub fn of_size(make: fn(i64) -> S) -> Self {
        let image_size = 256;
        Self { strategy: make(image_size), resize: Some(Resize { make, image_size }) }
    }

    fn follow(&mut self, image_size: Option<i64>) {
        if let Some((resize, image_size)) = self.resize.as_mut().zip(image_size)
            && resize.image_size != image_size
        {
            resize.image_size = image_size;
            self.strategy = (resize.make)(image_size);
        }
    }
}

impl<S: PromptStrategy + Send + 'static> Stage for PromptStage<S> {
    fn inputs(&self) -> &'static [Input] {
        &[AUX_MASKS, LABELS]
    }

    fn network(&self) -> Option<Compute> {
        None
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        let classes = usize::try_from(window.header.classes).wrap_err("metadata key `classes`")?;
        self.follow(window.header.image_size);
        for seq in 0..window.header.count {
            let prompts = if window.has(LABELS.name) {
                let labels = window.tensor(LABELS.name, 0).get(seq);
                let [height, width] = sizes(&labels)?;
                view_values(&labels, |values: &[u8]| -> Result<_> {
                    let labels = ArrayView2::from_shape((height, width), values)?;
                    Ok(self.strategy.prompts(&SliceMasks::Labels { labels, classes })?)
                })
            } else {
                let logits = window.tensor(AUX_MASKS.name, 0).get(seq);
                let [classes, height, width] = sizes(&logits)?;
                view_values(&logits, |values: &[f32]| -> Result<_> {
                    let logits = ArrayView3::from_shape((classes, height, width), values)?;
                    Ok(self.strategy.prompts(&SliceMasks::Logits(logits))?)
                })
            };
            let prompts = prompts.wrap_err_with(|| format!("slice {seq}"))?;
            let header = window.header.at(seq, vec![prompts.labels.len() as i64]);
            emit.array("prompts", header, encode_prompts(&prompts));
        }
        Ok(())
    }
}

fn sizes<const N: usize>(tensor: &Tensor) -> Result<[usize; N]> {
    let sizes: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
    sizes.try_into().map_err(|sizes| eyre!("masks have shape {sizes:?}, expected {N} dimensions"))
}

/// The prompts of a window, one per slice, with masks of `mask_size` (height, width).
///
/// # Errors
/// An array that violates the wire contract, with the number of its slice.
pub fn decode_window_prompts(window: &Window, mask_size: [usize; 2]) -> Result<Vec<SlicePrompts>> {
    let classes = usize::try_from(window.header.classes).wrap_err("metadata key `classes`")?;
    let decode = |(seq, array)| {
        decode_prompts(array, classes, mask_size).wrap_err_with(|| format!("input `prompts`, slice {seq}"))
    };
    window.prompts().iter().enumerate().map(decode).collect()
}
