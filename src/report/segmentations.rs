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
use crate::message::control::{CaseOpen, LiveCase};
use crate::scanner::outbox::Outbox;
use crate::scanner::spooled_images;
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
    /// Folder of the files of live series.
    spool: PathBuf,
    /// Where segmentations wait to be sent, if they are to be sent.
    outbox: Option<Arc<Outbox>>,
}

impl Segmentations {
    /// `is_prompted`: whether prompts are given, instead of the model's own. `spool`: folder in which a scanner source
    /// keeps the files of live series until they are written.
    pub fn new(bundle: &Bundle, is_prompted: bool, spool: PathBuf) -> Self {
        let config = &bundle.config;
        let weights = config.adapters.as_ref().unwrap_or(&config.weights);
        let id = weights.sha256.chars().take(ID_DIGITS).collect();
        let model = Model { name: config.name.clone(), id, is_prompted };
        Self { model, codes: config.codes.clone(), spool, outbox: None }
    }

    /// With an outbox, into which every segmentation is put.
    #[must_use]
    pub fn with_outbox(self, outbox: Option<Arc<Outbox>>) -> Self {
        Self { outbox, ..self }
    }

    /// Puts the file of a segmentation into the outbox. One that does not fit is only logged: the file remains.
    pub(super) fn deliver(&self, name: &str, path: &Path) {
        let Some(outbox) = &self.outbox else { return };
        if let Err(error) = outbox.put(name, path) {
            tracing::error!("{name} is not sent: {error}");
        }
    }

    /// The images of a case in the order of its slices; none if they are no DICOM images, or another machine has them.
    ///
    /// # Errors
    /// Those of [`locate`]; a spool that cannot be read, or lacks images.
    pub(super) fn images(&self, open: &CaseOpen) -> Result<Vec<ImageFile>> {
        match (&open.live, open.plan.files.images.first()) {
            (Some(live), _) => self.received(live),
            (None, Some(image)) => Ok(locate(image)?.map(|volume| volume.images()).unwrap_or_default()),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// The images of a live case, as its source has received them.
    fn received(&self, live: &LiveCase) -> Result<Vec<ImageFile>> {
        let folder = self.spool.join(&live.series_id);
        let files =
            spooled_images(&self.spool, &live.series_id).wrap_err_with(|| format!("{}", folder.display()))?;
        if files.is_empty() {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                let spool = self.spool.display();
                tracing::info!("no DICOM files of series in {spool}: no DICOM segmentations of them");
            });
            return Ok(Vec::new());
        }
        let mut images: Vec<(usize, ImageFile)> = Vec::with_capacity(live.images.len());
        for image in &live.images {
            let Some(slice) = image.slice else { continue };
            let file = usize::try_from(image.index).ok().and_then(|index| files.get(index));
            let missing = || eyre!("{}: image {} is not there", folder.display(), image.index + 1);
            let (path, frame) = file.ok_or_else(missing)?;
            images.push((slice, ImageFile { path: path.clone(), frame: *frame }));
        }
        images.sort_by_key(|(slice, _)| *slice);
        Ok(images.into_iter().map(|(_, image)| image).collect())
    }

    /// Writes `labels` (`[x, y, z]`, indices into `classes`) of these images.
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
