//! The inputs of a montage.

use ndarray::{ArrayView3, Axis};

use super::ReportError;

/// Volumes of one case on one grid, `[z, y, x]`, slices along z.
#[derive(Debug, Clone, Copy)]
pub struct MontageInput<'a> {
    /// Intensities, any unit.
    pub image: ArrayView3<'a, f32>,
    /// Predicted class of each voxel.
    pub prediction: ArrayView3<'a, u8>,
    /// True class of each voxel.
    pub truth: Option<ArrayView3<'a, u8>>,
    /// Voxel spacing, mm, `[z, y, x]`.
    pub spacing_mm: [f64; 3],
}

/// Number and size of the pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct MontageConfig {
    /// Most slices shown. Default 8.
    pub slices: usize,
    /// Minimum height of a picture, pixels; smaller ones are enlarged. Default 240.
    pub min_height: u32,
    /// Maximum height of a picture, pixels; larger ones are reduced. Default 320.
    pub max_height: u32,
    /// Maximum width of a picture, pixels; takes precedence over the heights. Default 640.
    pub max_width: u32,
    /// Percentage of voxels that are darker than black, and of those brighter than white. Default 1.
    pub clipped_percent: f64,
    /// Margin around all classes when pictures are cropped, as a fraction of their extent; `None` = whole slices.
    /// Default 0.5.
    pub margin: Option<f64>,
}

impl Default for MontageConfig {
    fn default() -> Self {
        Self {
            slices: 8,
            min_height: 240,
            max_height: 320,
            max_width: 640,
            clipped_percent: 1.0,
            margin: Some(0.5),
        }
    }
}

impl MontageInput<'_> {
    pub(super) fn check(&self) -> Result<(), ReportError> {
        let shape = |(z, y, x): (usize, usize, usize)| [z, y, x];
        let expected = shape(self.image.dim());
        let volumes = [("prediction", Some(self.prediction)), ("truth", self.truth)];
        for (what, volume) in volumes {
            match volume.map(|volume| shape(volume.dim())) {
                Some(found) if found != expected => {
                    return Err(ReportError::Shape { what, found, expected });
                }
                _ => {}
            }
        }
        if expected.contains(&0) {
            return Err(ReportError::Grid { reason: format!("a volume of shape {expected:?} is empty") });
        }
        if self.spacing_mm.iter().any(|&mm| !(mm.is_finite() && mm > 0.0)) {
            return Err(ReportError::Grid { reason: format!("a spacing of {:?} mm", self.spacing_mm) });
        }
        Ok(())
    }

    /// The prediction and, if known, the truth.
    pub(super) fn label_volumes(&self) -> impl Iterator<Item = ArrayView3<'_, u8>> {
        [Some(self.prediction), self.truth].into_iter().flatten()
    }

    pub(super) fn slices(&self, count: usize) -> Vec<usize> {
        let depth = self.image.len_of(Axis(0));
        let has_class = |slice: &usize| {
            self.label_volumes()
                .any(|labels| labels.index_axis(Axis(0), *slice).iter().any(|&label| label != 0))
        };
        let mut candidates: Vec<usize> = (0..depth).filter(has_class).collect();
        if candidates.is_empty() {
            candidates = (0..depth).collect();
        }
        spread(&candidates, count)
    }
}

/// `count` of the candidates, evenly spaced from the first to the last; the middle one if `count` is 1.
fn spread(candidates: &[usize], count: usize) -> Vec<usize> {
    let last = candidates.len() - 1;
    match count.min(candidates.len()) {
        0 => Vec::new(),
        1 => vec![candidates[last / 2]],
        count => (0..count).map(|index| candidates[(index * last + (count - 1) / 2) / (count - 1)]).collect(),
    }
}
