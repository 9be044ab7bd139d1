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

/// Points and boxes may lie outside the model input by this part of its side.
const OUTSIDE: f32 = 0.25;

impl SlicePrompts {
    /// Checks that points and boxes of the classes in the slice lie in the model input of `image_size` × `image_size` pixels
    /// or near it, and that the first corner of a box is the one with the smaller coordinates. What lies elsewhere is in
    /// pixels of something else.
    ///
    /// # Errors
    /// [`PromptError::Elsewhere`] and [`PromptError::Corners`] name the class.
    pub fn check_place(&self, image_size: i64) -> Result<(), PromptError> {
        let side = image_size as f32;
        let near = |value: f32| (-OUTSIDE * side..=(1.0 + OUTSIDE) * side).contains(&value);
        let check = |what, class, values: &[f32]| match values.iter().find(|&&value| !near(value)) {
            Some(&value) => Err(PromptError::Elsewhere { what, class, value, image_size }),
            None => Ok(()),
        };
        for (class, _) in self.labels.iter().enumerate().filter(|(_, label)| **label >= 0.0) {
            if let Some(point) = self.points.as_ref().and_then(|points| points.get(class)) {
                check("point", class, point)?;
            }
            if let Some(corners) = self.boxes.as_ref().and_then(|boxes| boxes.get(class)) {
                check("box", class, corners)?;
                if corners[0] > corners[2] || corners[1] > corners[3] {
                    return Err(PromptError::Corners { class, corners: *corners });
                }
            }
        }
        let further = self.more_points.iter().flat_map(|points| points.outer_iter().enumerate());
        for (class, points) in further {
            for point in points.outer_iter().filter(|point| point[2] >= 0.0) {
                check("point", class, &[point[0], point[1]])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_far_outside_the_model_input_are_refused_by_class() {
        let with = |point: [f32; 2], corners: [f32; 4]| SlicePrompts {
            labels: vec![1.0, 1.0, -1.0],
            points: Some(vec![[3.0, 3.0], point, [9999.0; 2]]),
            boxes: Some(vec![[-0.5, -0.5, 63.5, 63.5], corners, [9999.0; 4]]),
            ..SlicePrompts::default()
        };
        let check = |prompts: &SlicePrompts| prompts.check_place(64).err().map(|error| error.to_string());
        let inside = with([10.0, 20.0], [-2.0, 5.0, 70.0, 5.0]);
        assert_eq!(check(&inside), None, "near the edge is near enough, and class 2 is not in the slice");
        // In pixels of 256 instead of 64.
        let error = check(&with([10.0, 200.0], [0.0, 0.0, 1.0, 1.0])).unwrap();
        assert!(error.starts_with("point of class 1 at 200, but the model input has 64 pixels"), "{error}");
        let error = check(&with([10.0, 20.0], [0.0, 0.0, 250.0, 10.0])).unwrap();
        assert!(error.starts_with("box of class 1 at 250"), "{error}");
        assert!(check(&with([f32::NAN, 20.0], [0.0; 4])).is_some());
        let error = check(&with([10.0, 20.0], [9.0, 0.0, 5.0, 10.0])).unwrap();
        assert!(error.contains("of class 1: expected x0 <= x1"), "{error}");
        let further =
            Array3::from_shape_vec((3, 1, 3), vec![1.0, 1.0, 1.0, -90.0, 1.0, 0.0, -99.0, 0.0, -1.0]);
        let error = check(&SlicePrompts { more_points: further.ok(), ..inside }).unwrap();
        assert!(error.starts_with("point of class 1 at -90"), "{error}");
    }
}
