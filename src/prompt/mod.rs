//! Prompts for the mask decoder, made from the auxiliary masks of the MSPGenerator or from a label volume
//! (paper section 3.1, Figures 1 and 3).

mod boxes;
mod masks;
mod points;
mod regions;
mod strategy;

use ndarray::Array3;

pub use boxes::{model_from_slice, region_box};
pub use masks::{LABEL_LOGIT, labels_from_logits, logits_from_labels, resize_bilinear};
pub use points::{region_point, squared_distance_to_border};
pub use regions::{Components, PixelBox, Region, class_regions};
pub use strategy::{ConfiguredPrompts, PromptError, PromptStrategy, SliceMasks};

/// Most further points of a class.
pub const MOST_POINTS: usize = 64;

/// Prompts of the N classes of one slice, background included, in pixels of the square model input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlicePrompts {
    /// For each class 1 if the class is in the slice, else -1 ("not a point").
    pub labels: Vec<f32>,
    /// Point of each class, `(x, y)`.
    pub points: Option<Vec<[f32; 2]>>,
    /// Further points of each class, `[N, K, 3]` with K up to [`MOST_POINTS`]: x, y, and 1 for a point in the class, 0 for one
    /// outside, -1 for none.
    pub more_points: Option<Array3<f32>>,
    /// Box of each class, `(x0, y0, x1, y1)`.
    pub boxes: Option<Vec<[f32; 4]>>,
    /// Mask logits `[N, 4h, 4w]` for an embedding grid of h × w.
    pub masks: Option<Array3<f32>>,
}
