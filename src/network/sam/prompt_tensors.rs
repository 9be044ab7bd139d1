//! The prompts of all classes and slices of a window, as tensors for the prompt encoder.

use tch::{Device, Tensor};
use thiserror::Error;

use crate::prompt::SlicePrompts;

/// Prompts in pixels of the square model input, one entry for each of the P = B·D·N pairs of slice and class,
/// classes fastest. `None` means that the decoder gets no prompts of this kind.
#[derive(Debug, Default)]
pub struct PromptTensors {
    /// Points `[P, K, 2]` as (x, y), and their labels `[P, K]`: 1 foreground, 0 background, -1 not a point.
    pub points: Option<(Tensor, Tensor)>,
    /// Boxes `[P, 4]` as (x0, y0, x1, y1).
    pub boxes: Option<Tensor>,
    /// Which boxes are valid, `[P]`, bool. Both corners of the others are not-a-points. `None` = all.
    pub box_valid: Option<Tensor>,
    /// Mask logits `[P, 1, 4h, 4w]` for an embedding grid of h × w.
    pub masks: Option<Tensor>,
}

/// Why the prompts of several slices cannot be combined.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PromptTensorsError {
    /// Some slices have this kind of prompt and others do not.
    #[error("slice {slice}: {prompt} are given for some slices and not for others")]
    Mixed { slice: usize, prompt: &'static str },
    /// A slice has a different number of classes or mask size than the first slice.
    #[error("slice {slice}: {prompt} have shape {found:?}, expected {expected:?}")]
    Shape { slice: usize, prompt: &'static str, found: Vec<usize>, expected: Vec<usize> },
}

impl PromptTensors {
    /// The prompts of D slices as tensors of P = D·N entries in the order (slice, class), on `device`. A class that
    /// is absent from a slice gets not-a-points for its point and box, but keeps its mask logits.
    ///
    /// # Errors
    /// [`PromptTensorsError::Mixed`] and [`PromptTensorsError::Shape`] name the first slice that differs.
    pub fn from_slices(slices: &[SlicePrompts], device: Device) -> Result<Self, PromptTensorsError> {
        let Some(first) = slices.first() else { return Ok(Self::default()) };
        let classes = first.labels.len();
        let labels: Vec<f32> = gather(slices, "labels", &[classes], |slice| {
            Some((vec![slice.labels.len()], slice.labels.clone()))
        })?
        .unwrap_or_default();
        let points = gather(slices, "points", &[classes], |slice| {
            let points = slice.points.as_ref()?;
            Some((vec![points.len()], points.concat()))
        })?;
        let count = first.more_points.as_ref().map_or(0, |points| points.dim().1);
        let more_points = gather(slices, "more_points", &[classes, count, 3], |slice| {
            let points = slice.more_points.as_ref()?;
            Some((points.shape().to_vec(), points.iter().copied().collect()))
        })?;
        let boxes = gather(slices, "boxes", &[classes], |slice| {
            let boxes = slice.boxes.as_ref()?;
            Some((vec![boxes.len()], boxes.concat()))
        })?;
        let [height, width] = first.masks.as_ref().map_or([0, 0], |masks| [masks.dim().1, masks.dim().2]);
        let masks = gather(slices, "masks", &[classes, height, width], |slice| {
            let masks = slice.masks.as_ref()?;
            Some((masks.shape().to_vec(), masks.iter().copied().collect()))
        })?;

        let tensor = |values: &[f32], shape: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
        let labels = tensor(&labels, &[-1, 1]);
        let points = points.map(|points| (tensor(&points, &[-1, 1, 2]), labels.shallow_clone()));
        let more_points = more_points.filter(|_| count > 0).map(|points| {
            let points = tensor(&points, &[-1, count as i64, 3]);
            let of_points = points.select(2, 2).masked_fill(&labels.le(0.0), -1.0); // [P, K]
            (points.narrow(2, 0, 2), of_points)
        });
        Ok(Self {
            box_valid: boxes.as_ref().map(|_| labels.squeeze_dim(1).gt(0.0)),
            points: match (points, more_points) {
                (Some((points, labels)), Some((more, of_more))) => {
                    Some((Tensor::cat(&[points, more], 1), Tensor::cat(&[labels, of_more], 1)))
                }
                (points, more_points) => points.or(more_points),
            },
            boxes: boxes.map(|boxes| tensor(&boxes, &[-1, 4])),
            masks: masks.map(|masks| tensor(&masks, &[-1, 1, height as i64, width as i64])),
        })
    }
}

/// One kind of prompt of all slices, each of which must have `shape`; `None` if no slice has it.
fn gather(
    slices: &[SlicePrompts],
    prompt: &'static str,
    shape: &[usize],
    of: impl Fn(&SlicePrompts) -> Option<(Vec<usize>, Vec<f32>)>,
) -> Result<Option<Vec<f32>>, PromptTensorsError> {
    let mut all: Option<Vec<f32>> = None;
    for (slice, prompts) in slices.iter().enumerate() {
        match (of(prompts), &mut all) {
            (Some((found, _)), _) if found != shape => {
                return Err(PromptTensorsError::Shape { slice, prompt, found, expected: shape.to_vec() });
            }
            (Some((_, values)), Some(all)) => all.extend(values),
            (Some((_, values)), None) if slice == 0 => all = Some(values),
            (None, None) => {}
            _ => return Err(PromptTensorsError::Mixed { slice, prompt }),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    fn slice(first: f32) -> SlicePrompts {
        SlicePrompts {
            labels: vec![1.0, -1.0],
            points: Some(vec![[first, 1.0], [2.0, 3.0]]),
            more_points: None,
            boxes: Some(vec![[first; 4], [0.0; 4]]),
            masks: Some(Array3::from_elem((2, 4, 8), first)),
        }
    }

    #[test]
    fn slices_come_before_classes() {
        let prompts = PromptTensors::from_slices(&[slice(10.0), slice(20.0)], Device::Cpu).unwrap();
        let (points, labels) = prompts.points.unwrap();
        assert_eq!(points.size(), [4, 1, 2]);
        assert_eq!(Vec::<f32>::try_from(points.select(2, 0).flatten(0, 1)).unwrap(), [10.0, 2.0, 20.0, 2.0]);
        assert_eq!(Vec::<f32>::try_from(labels.flatten(0, 1)).unwrap(), [1.0, -1.0, 1.0, -1.0]);
        assert_eq!(Vec::<bool>::try_from(prompts.box_valid.unwrap()).unwrap(), [true, false, true, false]);
        let masks = prompts.masks.unwrap();
        assert_eq!(masks.size(), [4, 1, 4, 8]);
        assert_eq!(masks.double_value(&[2, 0, 3, 7]), 20.0);
    }

    #[test]
    fn further_points_follow_the_first_and_absent_classes_have_none() {
        let more = Array3::from_shape_fn((2, 2, 3), |(class, point, part)| match part {
            2 => f32::from(u8::from(point == 0)),
            _ => (10 * class + point) as f32,
        });
        let with = SlicePrompts { more_points: Some(more), ..slice(7.0) };
        let prompts = PromptTensors::from_slices(&[with.clone(), with.clone()], Device::Cpu).unwrap();
        let (points, labels) = prompts.points.unwrap();
        let flat = |x: Tensor| Vec::<f32>::try_from(x.flatten(0, -1)).unwrap();
        assert_eq!((points.size(), labels.size()), (vec![4, 3, 2], vec![4, 3]));
        assert_eq!(flat(points.get(2)), [7.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        assert_eq!(flat(labels.get(2)), [1.0, 1.0, 0.0]);
        assert_eq!(flat(labels.get(3)), [-1.0; 3]);
        let only = SlicePrompts { points: None, ..with.clone() };
        let prompts = PromptTensors::from_slices(&[only], Device::Cpu).unwrap();
        assert_eq!(flat(prompts.points.unwrap().1), [1.0, 0.0, -1.0, -1.0]);
        let mixed = PromptTensors::from_slices(&[with, slice(7.0)], Device::Cpu);
        assert_eq!(mixed.unwrap_err(), PromptTensorsError::Mixed { slice: 1, prompt: "more_points" });
    }

    #[test]
    fn slices_that_differ_are_named() {
        let without_boxes = SlicePrompts { boxes: None, ..slice(1.0) };
        let mixed = PromptTensors::from_slices(&[slice(1.0), without_boxes.clone()], Device::Cpu);
        assert_eq!(mixed.unwrap_err(), PromptTensorsError::Mixed { slice: 1, prompt: "boxes" });
        let mixed = PromptTensors::from_slices(&[without_boxes, slice(1.0)], Device::Cpu);
        assert_eq!(mixed.unwrap_err(), PromptTensorsError::Mixed { slice: 1, prompt: "boxes" });
        let small = SlicePrompts { masks: Some(Array3::zeros((2, 4, 4))), ..slice(1.0) };
        let (found, expected) = (vec![2, 4, 4], vec![2, 4, 8]);
        assert_eq!(
            PromptTensors::from_slices(&[slice(1.0), small], Device::Cpu).unwrap_err(),
            PromptTensorsError::Shape { slice: 1, prompt: "masks", found, expected }
        );
    }
}
