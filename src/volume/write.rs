//! Writes label maps: the image's header, except for the fields that make it a label map.

use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::Array3;

use super::classes::ClassTable;
use super::error::VolumeError;
use super::extension::for_labels;
use super::header::Header;
use super::raw_header::{Field, RawHeader};
use crate::files::write_atomically;

/// The intent code of label volumes (`NIFTI_INTENT_LABEL`).
const INTENT_LABEL: f64 = 1002.0;
/// The type of the voxels (`DT_UINT8`).
const UINT8: f64 = 2.0;

/// Writes `labels` (`[x, y, z]` as stored, indices into `classes`) on the grid of the image `reference`.
///
/// Voxels are unsigned bytes with the values of the classes, without scaling. The class names go into an extension
/// (a comment), which readers skip. Affine, forms, units, description and extensions are those of the image. Fields
/// that describe the image's voxels are not kept: intent (it becomes that of labels), display range, colour table,
/// slice order and times. A name ending in `.gz` is compressed. The file appears complete and synced or not at all.
/// A 2D image gets 2D labels, a 4D image 3D labels, a pair of files a single file.
///
/// # Errors
/// Those of [`Header::read`] for the reference, [`VolumeError::ShapeMismatch`], [`VolumeError::NoClass`] and
/// [`VolumeError::Io`].
pub fn write_labels(
    path: &Path,
    labels: &Array3<u8>,
    reference: &Path,
    classes: &ClassTable,
) -> Result<(), VolumeError> {
    let reference = Header::read(reference)?;
    let (x, y, z) = labels.dim();
    if [x, y, z] != reference.shape() {
        return Err(VolumeError::ShapeMismatch {
            path: path.into(),
            shape: [x, y, z],
            image: reference.path().into(),
            image_shape: reference.shape(),
        });
    }
    let largest = labels.iter().copied().max().map_or(0, usize::from);
    if largest >= classes.len() {
        return Err(VolumeError::NoClass { path: path.into(), label: largest, classes: classes.len() });
    }
    let extension = for_labels(&reference.extension, reference.is_little_endian(), classes);
    let header = label_header(&reference, extension.len());
    let values: Vec<u8> = classes.classes().iter().map(|class| class.value).collect();
    let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let write = |sink: &mut dyn Write| -> io::Result<()> {
        sink.write_all(&header.bytes)?;
        sink.write_all(&extension)?;
        let mut row = Vec::new();
        for plane in labels.view().reversed_axes().outer_iter() {
            row.clear();
            row.extend(plane.iter().map(|&label| values[usize::from(label)]));
            sink.write_all(&row)?;
        }
        Ok(())
    };
    write_atomically(path, |file| {
        if !is_gzip {
            return write(file);
        }
        let mut gzip = GzEncoder::new(file, Compression::default());
        write(&mut gzip)?;
        gzip.finish().map(|_| ())
    })
    .map_err(|source| VolumeError::Io { path: path.into(), source })
}

fn label_header(reference: &Header, extension_bytes: usize) -> RawHeader {
    let mut raw = reference.raw.clone();
    raw.set(Field::Datatype, UINT8);
    raw.set(Field::Bitpix, 8.0);
    if raw.integer(Field::Dim(0)) > 3 {
        raw.set(Field::Dim(0), 3.0);
        for axis in 4..8 {
            raw.set(Field::Dim(axis), 1.0);
            raw.set(Field::Pixdim(axis), 1.0);
        }
    }
    let offset = raw.version.header_bytes() + extension_bytes;
    raw.set(Field::VoxOffset, offset as f64);
    raw.set(Field::SclSlope, 1.0);
    raw.set(Field::IntentCode, INTENT_LABEL);
    let zeros = [
        Field::SclInter,
        Field::IntentP(0),
        Field::IntentP(1),
        Field::IntentP(2),
        Field::CalMax,
        Field::CalMin,
        Field::SliceStart,
        Field::SliceEnd,
        Field::SliceCode,
        Field::SliceDuration,
        Field::Toffset,
    ];
    zeros.into_iter().for_each(|field| raw.set(field, 0.0));
    raw.set_text(Field::IntentName, b"");
    raw.set_text(Field::AuxFile, b"");
    let magic = raw.single_file_magic();
    raw.set_text(Field::Magic, magic);
    raw.is_pair = false;
    raw
}
