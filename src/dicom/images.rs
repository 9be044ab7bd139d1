//! A file on its own: what identifies it and its series, and its images one by one.

use std::path::Path;

use dicom_dictionary_std::tags;

use super::error::DicomError;
use super::frames::{PixelFile, real};
use super::instance::header;
use super::placement::Placement;
use super::slice::Slice;
use super::source::text;
use super::syntax::Syntax;

/// A file with images. It holds nothing that names a patient.
pub struct Images {
    /// SOP Class UID.
    pub class_uid: String,
    /// SOP Instance UID.
    pub instance_uid: String,
    /// Series Instance UID.
    pub series_uid: String,
    pub series_number: Option<i64>,
    pub modality: String,
    /// Number of images of the acquisition (Images in Acquisition), if the file says so.
    pub expected: Option<i64>,
    slices: Vec<Slice>,
    pixels: PixelFile,
}

impl Images {
    /// Reads the attributes before the pixels.
    ///
    /// # Errors
    /// [`DicomError::Io`]; [`DicomError::File`] for a damaged file, one without images, or one without identifiers.
    pub fn open(path: &Path) -> Result<Self, DicomError> {
        let (object, slices) = header(path)?;
        if slices.is_empty() {
            return Err(DicomError::file(path, "it has no image"));
        }
        let images = Self {
            class_uid: text(&object, tags::SOP_CLASS_UID),
            instance_uid: text(&object, tags::SOP_INSTANCE_UID),
            series_uid: text(&object, tags::SERIES_INSTANCE_UID),
            series_number: slices[0].source.series_number,
            modality: text(&object, tags::MODALITY),
            expected: object.get(tags::IMAGES_IN_ACQUISITION).and_then(|element| element.to_int().ok()),
            slices,
            pixels: PixelFile::default(),
        };
        for (uid, name) in [
            (&images.class_uid, "SOP Class UID"),
            (&images.instance_uid, "SOP Instance UID"),
            (&images.series_uid, "Series Instance UID"),
        ] {
            if uid.is_empty() {
                return Err(DicomError::file(path, format!("no {name}")));
            }
        }
        Ok(images)
    }

    /// Number of images, at least one.
    pub fn count(&self) -> usize {
        self.slices.len()
    }

    /// Whether the pixels must be decoded.
    pub fn is_compressed(&self) -> bool {
        self.slices[0].source.syntax != Syntax::Native
    }

    /// Size and place of an image.
    ///
    /// # Errors
    /// [`DicomError::File`] if there is no such image.
    pub fn placement(&self, image: usize) -> Result<Placement, DicomError> {
        self.slice(image).map(Placement::from)
    }

    /// The pixels of an image with slope and intercept applied, row by row from the first.
    ///
    /// # Errors
    /// [`DicomError::File`] for pixels that cannot be decoded.
    pub fn pixels(&mut self, image: usize) -> Result<Vec<f32>, DicomError> {
        let slice = self.slice(image)?.clone();
        Ok(real(&self.pixels.stored(&slice)?, &slice).collect())
    }

    fn slice(&self, image: usize) -> Result<&Slice, DicomError> {
        let missing = || DicomError::file(&self.slices[0].source.path, format!("no image {}", image + 1));
        self.slices.get(image).ok_or_else(missing)
    }
}
