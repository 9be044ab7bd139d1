//! The object, part by part, and its file (PS3.10).

use std::io::{self, Write};
use std::path::Path;

use dicom_core::PrimitiveValue;
use dicom_dictionary_std::{tags, uids};
use dicom_object::meta::FileMetaTableBuilder;
use dicom_object::{FileDicomObject, InMemDicomObject};

use super::frames::Frames;
use super::segmentation::Segmentation;
use super::source::Sources;
use super::{context, groups, segments};
use crate::dicom::element::{count, new_uid, number, raw, text, texts};
use crate::dicom::error::DicomError;
use crate::dicom::source::one_line;
use crate::files::write_atomically;

/// Writes a segmentation. Texts of the source keep its character set; ours are ASCII.
///
/// A segment has frames only for images in which it is. If no segment is anywhere, the first has one empty frame,
/// because an object needs a frame.
///
/// # Errors
/// [`DicomError::File`] for a source without an identifier, or whose size differs from the labels'; [`DicomError::Io`].
pub fn write(path: &Path, segmentation: &Segmentation) -> Result<(), DicomError> {
    let sources = Sources::read(segmentation.images, path)?;
    sources.check(path, segmentation.labels.dim())?;
    let frames = Frames::new(segmentation.labels, segmentation.segments.len())
        .map_err(|reason| DicomError::file(path, reason))?;
    let file =
        file(object(segmentation, &sources, &frames)).map_err(|reason| DicomError::file(path, reason))?;
    write_atomically(path, |to| file.write_all(&mut *to as &mut dyn Write).map_err(io::Error::other))
        .map_err(|source| DicomError::io(path, source))
}

fn object(segmentation: &Segmentation, sources: &Sources, frames: &Frames) -> InMemDicomObject {
    let mut object = context::of_source(&sources.first);
    context::add_series(&mut object, &sources.first, segmentation.model);
    add_image(&mut object, sources, frames);
    object.put(segments::sequence(segmentation.segments, segmentation.model));
    groups::add(&mut object, sources, frames);
    object.put(raw(tags::PIXEL_DATA, PrimitiveValue::from(frames.bits(segmentation.labels))));
    object
}

/// Modules General Image, Image Pixel and Segmentation Image.
fn add_image(object: &mut InMemDicomObject, sources: &Sources, frames: &Frames) {
    for element in [
        text(tags::SOP_CLASS_UID, uids::SEGMENTATION_STORAGE),
        text(tags::SOP_INSTANCE_UID, new_uid()),
        text(tags::INSTANCE_NUMBER, "1"),
        texts(tags::IMAGE_TYPE, ["DERIVED", "PRIMARY"]),
        text(tags::CONTENT_LABEL, "SEGMENTATION"),
        text(tags::CONTENT_CREATOR_NAME, format!("{}^", context::MAKER)),
        number(tags::SAMPLES_PER_PIXEL, 1),
        text(tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2"),
        number(tags::ROWS, sources.rows as u16),
        number(tags::COLUMNS, sources.columns as u16),
        count(tags::NUMBER_OF_FRAMES, frames.list.len()),
        number(tags::BITS_ALLOCATED, 1),
        number(tags::BITS_STORED, 1),
        number(tags::HIGH_BIT, 0),
        number(tags::PIXEL_REPRESENTATION, 0),
        text(tags::SEGMENTATION_TYPE, "BINARY"),
        text(tags::SEGMENTS_OVERLAP, "NO"),
    ] {
        object.put(element);
    }
    context::add_compression(object, &sources.first);
}

fn file(object: InMemDicomObject) -> Result<FileDicomObject<InMemDicomObject>, String> {
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.with_meta(meta).map_err(|error| one_line(&error))
}
