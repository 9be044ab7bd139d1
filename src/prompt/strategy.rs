//! Prompt strategies: from the masks of a slice to the prompts of its classes (paper section 3.1 and the
//! combinations of Figures 1 and 3).

use ndarray::{ArrayView2, ArrayView3};
use thiserror::Error;

use super::SlicePrompts;
use super::boxes::{model_from_slice, region_box};
use super::masks::{labels_from_logits, logits_from_labels, resize_bilinear};
use super::points::region_point;
use super::regions::{Components, class_regions};
use crate::bundle::PromptConfig;

/// Why no prompts can be made from masks.
#[derive(Debug, Error, PartialEq)]
pub enum PromptError {
    /// An axis of the masks is empty, or there are more classes than labels.
    #[error("masks of shape {shape:?}: expected [1..=255 classes, height, width]")]
    Shape { shape: [usize; 3] },
    /// A logit is NaN or infinite.
    #[error("auxiliary mask of class {class}: logit at x {x}, y {y} is {value}")]
    NotFinite { class: usize, x: usize, y: usize, value: f32 },
    /// A label is not one of the classes.
    #[error("label {label} at x {x}, y {y}: there are only {classes} classes (0 is the background)")]
    UnknownLabel { label: u8, x: usize, y: usize, classes: usize },
    /// The size of the model input or of the mask prompt is not positive.
    #[error(
        "prompts for a model input of {image_size} pixels and masks of {mask_size:?}: sizes must be positive"
    )]
    Size { image_size: i64, mask_size: [usize; 2] },
    /// A prompt far outside the model input.
    #[error(
        "{what} of class {class} at {value}, but the model input has {image_size} pixels: prompts are in its pixels (metadata \
         `image_size`)"
    )]
    Elsewhere { what: &'static str, class: usize, value: f32, image_size: i64 },
    /// A box whose corners are exchanged.
    #[error("box {corners:?} of class {class}: expected x0 <= x1 and y0 <= y1")]
    Corners { class: usize, corners: [f32; 4] },
}

/// The masks of one slice. The background is class 0 and is prompted like any other class.
#[derive(Debug, Clone, Copy)]
pub enum SliceMasks<'a> {
    /// The generator's logits `[N, imgH, imgW]`. A pixel belongs to the class with the largest logit.
    Logits(ArrayView3<'a, f32>),
    /// Labels `[imgH, imgW]` of a label volume (the paper's oracle), each below `classes`.
    Labels { labels: ArrayView2<'a, u8>, classes: usize },
}

/// Makes the prompts of a slice. Implement it to use your own prompts.
pub trait PromptStrategy {
    /// Prompts of all classes of one slice.
    ///
    /// # Errors
    /// Any [`PromptError`] that the strategy finds in the masks.
    fn prompts(&self, masks: &SliceMasks<'_>) -> Result<SlicePrompts, PromptError>;
}

/// Point, box and mask prompts as configured.
///
/// Points and boxes come from the connected components of a class: [`Components::Largest`] of predicted masks,
/// [`Components::All`] of labels. A class that is not in the slice gets label -1 and zeros for point and box,
/// but keeps its mask logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfiguredPrompts {
    /// Which prompts to make.
    pub config: PromptConfig,
    /// Side of the square model input, pixels.
    pub image_size: i64,
    /// `[4h, 4w]` for an embedding grid of h × w.
    pub mask_size: [usize; 2],
}

impl PromptStrategy for ConfiguredPrompts {
    /// # Errors
    /// [`PromptError::Shape`], [`PromptError::NotFinite`], [`PromptError::UnknownLabel`] and
    /// [`PromptError::Size`].
    fn prompts(&self, masks: &SliceMasks<'_>) -> Result<SlicePrompts, PromptError> {
        self.check()?;
        masks.check()?;
        let Self { config, mask_size, .. } = *self;
        let regions = match *masks {
            SliceMasks::Logits(logits) => {
                class_regions(labels_from_logits(logits).view(), logits.dim().0, Components::Largest)
            }
            SliceMasks::Labels { labels, classes } => class_regions(labels, classes, Components::All),
        };
        let [_, height, width] = masks.shape();
        let to_model = |pixel| model_from_slice(pixel, [height, width], self.image_size);
        let points = config.point.map(|rule| {
            let point = |region| to_model(region_point(region, rule));
            regions.iter().map(|region| region.as_ref().map_or([0.0; 2], point)).collect()
        });
        let boxes = config.boxes.then(|| {
            let corners = |region| {
                let [x0, y0, x1, y1] = region_box(region);
                let ([x0, y0], [x1, y1]) = (to_model([x0, y0]), to_model([x1, y1]));
                [x0, y0, x1, y1]
            };
            regions.iter().map(|region| region.as_ref().map_or([0.0; 4], corners)).collect()
        });
        let masks = config.mask.then(|| match *masks {
            SliceMasks::Logits(logits) => resize_bilinear(logits, mask_size),
            SliceMasks::Labels { labels, classes } => {
                resize_bilinear(logits_from_labels(labels, classes).view(), mask_size)
            }
        });
        let labels = regions.iter().map(|region| if region.is_some() { 1.0 } else { -1.0 }).collect();
        Ok(SlicePrompts { labels, points, more_points: None, boxes, masks })
    }
}

impl ConfiguredPrompts {
    fn check(&self) -> Result<(), PromptError> {
        let Self { image_size, mask_size, .. } = *self;
        let usable = image_size > 0 && mask_size.iter().all(|&side| side > 0);
        if usable { Ok(()) } else { Err(PromptError::Size { image_size, mask_size }) }
    }
}

impl SliceMasks<'_> {
    /// `[N, imgH, imgW]`.
    pub fn shape(&self) -> [usize; 3] {
        let (classes, (height, width)) = match self {
            Self::Logits(logits) => (logits.dim().0, (logits.dim().1, logits.dim().2)),
            Self::Labels { labels, classes } => (*classes, labels.dim()),
        };
        [classes, height, width]
    }

    fn check(&self) -> Result<(), PromptError> {
        let shape @ [classes, height, width] = self.shape();
        if !(1..=255).contains(&classes) || height == 0 || width == 0 {
            return Err(PromptError::Shape { shape });
        }
        match self {
            Self::Logits(logits) if logits.iter().all(|logit| logit.is_finite()) => Ok(()),
            Self::Logits(logits) => {
                let found = logits.indexed_iter().find(|(_, logit)| !logit.is_finite());
                found.map_or(Ok(()), |((class, y, x), &value)| {
                    Err(PromptError::NotFinite { class, x, y, value })
                })
            }
            Self::Labels { labels, .. } => {
                let found = labels.indexed_iter().find(|&(_, &label)| usize::from(label) >= classes);
                found.map_or(Ok(()), |((y, x), &label)| {
                    Err(PromptError::UnknownLabel { label, x, y, classes })
                })
            }
        }
    }
}
