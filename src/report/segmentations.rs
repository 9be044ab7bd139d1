//! DICOM segmentations of cases that are DICOM series.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array3;

use super::class_colour;
use crate::bundle::{Bundle, ClassCodes};
use crate::dicom::seg::{self, Model, Segment, Segmentation};
use crate::dicom::{DicomError, locate};
use crate::volume::ClassTable;

/// Digits of the hash of a model's weights that tell it from others.
const ID_DIGITS: usize = 16;

/// File name of the DICOM segmentation of a case.
pub fn segmentation_name(case_id: &str) -> String {
    format!("{case_id}.seg.dcm")
}

/// What all segmentations of a run have in common.
#[derive(Debug, Clone)]
pub struct Segmentations {
    model: Model,
    codes: BTreeMap<String, ClassCodes>,
}

impl Segmentations {
    /// `is_prompted`: whether prompts are given, instead of the model's own.
    pub fn new(bundle: &Bundle, is_prompted: bool) -> Self {
        let config = &bundle.config;
        let weights = config.adapters.as_ref().unwrap_or(&config.weights);
        let id = weights.sha256.chars().take(ID_DIGITS).collect();
        Self { model: Model { name: config.name.clone(), id, is_prompted }, codes: config.codes.clone() }
    }

    /// Writes `labels` (`[x, y, z]`, indices into `classes`) of the series `image`.
    ///
    /// # Errors
    /// Those of [`locate`] and [`seg::write`].
    pub(super) fn write(
        &self,
        path: &Path,
        image: &Path,
        labels: &Array3<u8>,
        classes: &ClassTable,
    ) -> Result<(), DicomError> {
        let Some(volume) = locate(image)? else { return Ok(()) };
        let segment = |(class, name): (usize, String)| Segment {
            codes: self.codes.get(&name).cloned().unwrap_or_else(|| ClassCodes::of_name(&name)),
            name,
            colour: class_colour(class).unwrap_or_default(),
        };
        let segments: Vec<Segment> = classes.names().into_iter().enumerate().skip(1).map(segment).collect();
        let images = volume.images();
        let labels = labels.view();
        seg::write(path, &Segmentation { images: &images, labels, segments: &segments, model: &self.model })
    }
}
