//! Mask prompts: logits on the grid that SAM's prompt encoder expects, and the class of each pixel.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, Zip};

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
    let rows = sources(source_height, height);
    let columns = sources(source_width, width);
    let mut resized = Array3::zeros((count, height, width));
    let mut blended = vec![0.0f32; source_width];
    for (image, mut resized) in images.outer_iter().zip(resized.outer_iter_mut()) {
        for (mut out, row) in resized.outer_iter_mut().zip(&rows) {
            let (first, second) =
                (image.index_axis(Axis(0), row.first), image.index_axis(Axis(0), row.second));
            for ((blended, &a), &b) in blended.iter_mut().zip(first).zip(second) {
                *blended = row.blend(a, b);
            }
            for (out, column) in out.iter_mut().zip(&columns) {
                *out = column.blend(blended[column.first], blended[column.second]);
            }
        }
    }
    resized
}

/// The two source pixels of a target pixel, and the weight of the second one.
struct Source {
    first: usize,
    second: usize,
    weight: f32,
}

impl Source {
    fn blend(&self, first: f32, second: f32) -> f32 {
        (1.0 - self.weight) * first + self.weight * second
    }
}

/// The source pixels of each of `target` pixels, along an axis of `source` pixels.
fn sources(source: usize, target: usize) -> Vec<Source> {
    let scale = source as f32 / target as f32;
    (0..target)
        .map(|index| {
            // `mul_add` rounds once, as torch's kernels do. Rounding twice is off by up to 2e-5 for logits of
            // 20.
            let position = (index as f32 + 0.5).mul_add(scale, -0.5).max(0.0);
            let first = (position as usize).min(source - 1);
            let second = (first + 1).min(source - 1);
            Source { first, second, weight: (position - first as f32).clamp(0.0, 1.0) }
        })
        .collect()
}
