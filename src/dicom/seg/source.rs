//! The images that are segmented: what identifies them, and where they lie.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::segmentation::ImageFile;
use crate::dicom::element::same_decimal;
use crate::dicom::error::DicomError;
use crate::dicom::groups::Groups;
use crate::dicom::instance::header;
use crate::dicom::slice::{Slice, dot};
use crate::dicom::source::text;

/// The images in the order of the volume.
pub(super) struct Sources {
    /// The attributes of the first image's file.
    pub first: InMemDicomObject,
    pub rows: usize,
    pub columns: usize,
    /// As in the file.
    pub pixel_spacing: Vec<String>,
    /// As in the file.
    pub orientation: Vec<String>,
    /// From slice to slice, mm.
    pub distance: f64,
    pub images: Vec<Image>,
}

/// An image.
pub(super) struct Image {
    pub instance: Arc<Instance>,
    /// Number of the frame from 1, if the file is of a multi-frame class.
    pub frame: Option<usize>,
    /// As in the file.
    pub position: Vec<String>,
}

/// A file.
#[derive(PartialEq, Eq)]
pub(super) struct Instance {
    pub path: PathBuf,
    pub class_uid: String,
    pub uid: String,
}

/// A file while its images are read.
struct Opened {
    object: InMemDicomObject,
    slices: Vec<Slice>,
    instance: Arc<Instance>,
}

impl Sources {
    /// Reads the attributes of all files; `to` is for messages.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(files: &[ImageFile], to: &Path) -> Result<Self, DicomError> {
        let mut opened: Option<Opened> = None;
        let mut slices: Vec<Slice> = Vec::with_capacity(files.len());
        let mut images = Vec::with_capacity(files.len());
        let mut first = None;
        for ImageFile { path, frame } in files {
            let file = match opened.take() {
                Some(file) if file.instance.path == *path => file,
                _ => Opened::read(path)?,
            };
            let slice = file.slices.get(*frame);
            let slice = slice.ok_or_else(|| DicomError::file(path, format!("no frame {}", frame + 1)))?;
            slices.push(slice.clone());
            images.push(file.image(*frame));
            let file = opened.insert(file);
            first.get_or_insert_with(|| (file.object.clone(), *frame));
        }
        let Some((first, frame)) = first else { return Err(DicomError::file(to, "no images")) };
        let groups = Groups::of_frame(&first, frame);
        Ok(Self {
            rows: slices[0].source.rows,
            columns: slices[0].source.columns,
            pixel_spacing: decimals(&groups, tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING),
            orientation: decimals(&groups, tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION_PATIENT),
            distance: distance(&slices),
            images,
            first,
        })
    }

    /// Fails if the images are not those of labels with this shape; `path` is for the message.
    ///
    /// # Errors
    /// [`DicomError::File`].
    pub fn check(&self, path: &Path, labels: (usize, usize, usize)) -> Result<(), DicomError> {
        let found = (self.columns, self.rows, self.images.len());
        if labels == found {
            return Ok(());
        }
        Err(DicomError::file(path, format!("labels of {labels:?} voxels for images of {found:?}")))
    }

    /// The files, each once.
    pub fn instances(&self) -> Vec<&Instance> {
        let mut instances: Vec<&Instance> = self.images.iter().map(|image| &*image.instance).collect();
        instances.sort_by(|a, b| a.uid.cmp(&b.uid));
        instances.dedup();
        instances
    }
}

impl Opened {
    fn read(path: &Path) -> Result<Self, DicomError> {
        let (object, slices) = header(path)?;
        let identifier = |tag: Tag, name: &str| match text(&object, tag) {
            uid if uid.is_empty() => Err(DicomError::file(path, format!("no {name}"))),
            uid => Ok(uid),
        };
        identifier(tags::STUDY_INSTANCE_UID, "Study Instance UID")?;
        identifier(tags::SERIES_INSTANCE_UID, "Series Instance UID")?;
        let instance = Instance {
            path: path.into(),
            class_uid: identifier(tags::SOP_CLASS_UID, "SOP Class UID")?,
            uid: identifier(tags::SOP_INSTANCE_UID, "SOP Instance UID")?,
        };
        Ok(Self { object, slices, instance: Arc::new(instance) })
    }

    fn image(&self, frame: usize) -> Image {
        let groups = Groups::of_frame(&self.object, frame);
        Image {
            instance: self.instance.clone(),
            frame: Groups::count(&self.object).map(|_| frame + 1),
            position: decimals(&groups, tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION_PATIENT),
        }
    }
}

fn decimals(groups: &Groups, group: Tag, tag: Tag) -> Vec<String> {
    groups.texts(group, tag).iter().map(|text| same_decimal(text)).collect()
}

/// The mean distance of slices, along the normal.
fn distance(slices: &[Slice]) -> f64 {
    let (first, last) = (&slices[0], &slices[slices.len() - 1]);
    let place = |slice: &Slice| dot(slice.position, first.normal());
    match slices.len() {
        1 => first.thickness,
        count => (place(last) - place(first)).abs() / (count - 1) as f64,
    }
}
