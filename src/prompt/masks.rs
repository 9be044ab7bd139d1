//! Mask prompts: logits on the grid that SAM's prompt encoder expects, and the class of each pixel.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Zip};

use crate::array::{Rounding, linear_taps, resample_plane};

/// Mask logit of a pixel that belongs to the class of a label map; other pixels get the negative. SAM 2
/// converts a user's mask to logits with the same value (`sam2_base.py`, `_use_mask_as_output`).
pub const LABEL_LOGIT: f32 = 10.0;

/// The class of each pixel: the one with the largest logit; the first in case of a tie. `[N, H, W]` with N from
/// 1 to 255 to `[H, W]`.
pub fn labels_from_logits(logits: ArrayView3<'_, f32>) -> Array2<u8> {
    let (_, height, width) = logits.dim();
    let mut largest = Array2::from_elem((height, width), f32::NEG_INFINITY);
    let mut labels = Array2::zeros((height, width));
    for (class, of_class) in logits.outer_iter().enumerate() {
        Zip::from(&mut largest).and(&mut labels).and(of_class).for_each(|largest, label, &logit| {
            if logit > *largest {
                (*largest, *label) = (logit, class as u8);
            }
        });
    }
    labels
}

/// Mask logits per class of a label map: [`LABEL_LOGIT`] for pixels of the class, the negative elsewhere. `[H,
/// W]` to `[N, H, W]`.
pub fn logits_from_labels(labels: ArrayView2<'_, u8>, classes: usize) -> Array3<f32> {
    let (height, width) = labels.dim();
    Array3::from_shape_fn((classes, height, width), |(class, y, x)| {
        if usize::from(labels[[y, x]]) == class { LABEL_LOGIT } else { -LABEL_LOGIT }
    })
}

/// Resizes each of N images bilinearly, `[N, H, W]` to `[N, height, width]`, as
/// `torch.nn.functional.interpolate(mode="bilinear", align_corners=False, antialias=False)` does.
pub fn resize_bilinear(images: ArrayView3<'_, f32>, [height, width]: [usize; 2]) -> Array3<f32> {
    let (count, source_height, source_width) = images.dim();
    if [source_height, source_width] == [height, width] {
        return images.to_owned();
    }
    let rows = linear_taps(source_height, height, Rounding::Once);
    let columns = linear_taps(source_width, width, Rounding::Once);
    let mut resized = Array3::zeros((count, height, width));
    let images = images.as_standard_layout();
    for (image, mut resized) in images.outer_iter().zip(resized.outer_iter_mut()) {
        if let (Some(image), Some(resized)) = (image.as_slice(), resized.as_slice_mut()) {
            resample_plane(image, source_width, &rows, &columns, resized, width);
        }
    }
    resized
}
