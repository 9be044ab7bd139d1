//! DICOM segmentations of cases that are DICOM series, or live series whose files are in a spool.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use eyre::{Result, WrapErr, eyre};
use ndarray::Array3;

use super::class_colour;
use crate::bundle::{Bundle, ClassCodes};
use crate::dicom::seg::{self, ImageFile, Model, Segment, Segmentation};
use crate::dicom::{DicomError, locate};
use crate::volume::ClassTable;

/// Digits of the hash of a model's weights that tell it from others.
const ID_DIGITS: usize = 16;

/// File name of the DICOM segmentation of a case. A revision of a live series replaces the file of the earlier ones.
pub fn segmentation_name(case_id: &str, revision: i64) -> String {
    let first = case_id.strip_suffix(&format!("_r{revision}"));
    format!("{}.seg.dcm", first.filter(|_| revision > 0).unwrap_or(case_id))
}

/// What all segmentations of a run have in common.
#[derive(Debug, Clone)]
pub struct Segmentations {
    model: Model,
    codes: BTreeMap<String, ClassCodes>,
}

impl Segmentations {
    /// `is_prompted`: whether prompts are given, instead of the model's own. `spool`: folder in which a scanner source
    /// keeps the files of live series until they are written.
    pub fn new(bundle: &Bundle, is_prompted: bool, spool: PathBuf) -> Self {
        let config = &bundle.config;
        let weights = config.adapters.as_ref().unwrap_or(&config.weights);
        let id = weights.sha256.chars().take(ID_DIGITS).collect();
        Self { model: Model { name: config.name.clone(), id, is_prompted }, codes: config.codes.clone() }
    }

    /// Writes `labels` (`[x, y, z]`, indices into `classes`) of the series `image`.
    ///
    /// # Errors
    /// Those of [`seg::write`].
    pub(super) fn write(
        &self,
        path: &Path,
        images: &[ImageFile],
        labels: &Array3<u8>,
        classes: &ClassTable,
    ) -> Result<(), DicomError> {
        let segment = |(class, name): (usize, String)| Segment {
            codes: self.codes.get(&name).cloned().unwrap_or_else(|| ClassCodes::of_name(&name)),
            name,
            colour: class_colour(class).unwrap_or_default(),
        };
        let segments: Vec<Segment> = classes.names().into_iter().enumerate().skip(1).map(segment).collect();
        let labels = labels.view();
        seg::write(path, &Segmentation { images, labels, segments: &segments, model: &self.model })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_has_the_file_of_its_series() {
        assert_eq!(segmentation_name("head", 0), "head.seg.dcm");
        assert_eq!(segmentation_name("MR_4_e2_r1", 1), "MR_4_e2.seg.dcm");
        assert_eq!(segmentation_name("scan_r0", 0), "scan_r0.seg.dcm");
        assert_eq!(segmentation_name("scan_r1", 0), "scan_r1.seg.dcm");
    }
}
