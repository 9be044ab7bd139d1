//! A template for a prompt node: boxes of all classes, as a strategy of the library.

use std::process::ExitCode;

use self_prompt_sam::prompt::{PromptError, PromptStrategy, SliceMasks, SlicePrompts, labels_from_logits};
use self_prompt_sam::runtime::{PromptStage, node_main, run_stage};

/// The box around all pixels of a class.
struct WholeBoxes {
    /// Side of the square model input, pixels.
    image_size: f32,
}

impl PromptStrategy for WholeBoxes {
    fn prompts(&self, masks: &SliceMasks<'_>) -> Result<SlicePrompts, PromptError> {
        let (labels, classes) = match masks {
            SliceMasks::Logits(logits) => (labels_from_logits(*logits), logits.dim().0),
            SliceMasks::Labels { labels, classes } => (labels.to_owned(), *classes),
        };
        let (height, width) = labels.dim();
        let mut prompts = SlicePrompts {
            labels: vec![-1.0; classes],
            boxes: Some(vec![[0.0; 4]; classes]),
            ..SlicePrompts::default()
        };
        for class in 0..classes {
            if let (Some(found), Some(boxes)) =
                (self.box_of(class, &labels, [height, width]), &mut prompts.boxes)
            {
                prompts.labels[class] = 1.0;
                boxes[class] = found;
            }
        }
        Ok(prompts)
    }
}

impl WholeBoxes {
    /// Replace this with your own idea: the box (x0, y0, x1, y1) of a class in pixels of the model input.
    fn box_of(
        &self,
        class: usize,
        labels: &ndarray::Array2<u8>,
        [height, width]: [usize; 2],
    ) -> Option<[f32; 4]> {
        let pixels = labels.indexed_iter().filter(|&(_, &label)| usize::from(label) == class);
        let bounds = pixels.fold(None, |bounds: Option<[usize; 4]>, ((y, x), _)| {
            Some(bounds.map_or([x, y, x, y], |[x0, y0, x1, y1]| [x0.min(x), y0.min(y), x1.max(x), y1.max(y)]))
        });
        let to_model = |index: usize, size: usize| (index as f32 + 0.5) * self.image_size / size as f32 - 0.5;
        bounds.map(|[x0, y0, x1, y1]| {
            [to_model(x0, width), to_model(y0, height), to_model(x1, width), to_model(y1, height)]
        })
    }
}

fn main() -> ExitCode {
    node_main(|| run_stage(PromptStage::of_size(|image_size| WholeBoxes { image_size: image_size as f32 })))
}
