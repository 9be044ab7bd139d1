//! The slices of a DICOM file. Only the attributes before the pixels are read.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, OpenFileOptions};

use super::error::DicomError;
use super::scan::{PREFIX_BYTES, Scanned, scan};
use super::slice::Slice;
use super::source::{Source, one_line, text};
use super::syntax::{Encoding, Syntax};

/// Whether the file has the prefix of DICOM files.
///
/// # Errors
/// The file cannot be read.
pub fn is_dicom(path: &Path) -> std::io::Result<bool> {
    let mut prefix = Vec::with_capacity(PREFIX_BYTES as usize);
    File::open(path)?.take(PREFIX_BYTES).read_to_end(&mut prefix)?;
    Ok(prefix.get(128..) == Some(b"DICM"))
}

/// The slices of a file; none if it is no image (a report, a directory, a segmentation).
///
/// # Errors
/// Names the file.
pub(super) fn slices(path: &Path) -> Result<Vec<Slice>, DicomError> {
    Ok(header(path)?.1)
}

/// The attributes of a file before its pixels, and its slices.
///
/// # Errors
/// Names the file.
pub(super) fn header(path: &Path) -> Result<(InMemDicomObject, Vec<Slice>), DicomError> {
    let io = |source| DicomError::io(path, source);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let scanned = scan(file, length).map_err(|reason| DicomError::file(path, reason))?;
    read(path, &scanned).map_err(|reason| DicomError::file(path, reason))
}

fn read(path: &Path, scanned: &Scanned) -> Result<(InMemDicomObject, Vec<Slice>), String> {
    // What follows may be compressed as a whole, and then cannot be parsed.
    let syntax = Syntax::of_uid(&scanned.transfer_syntax)?;
    let object = OpenFileOptions::new()
        .read_until(tags::FLOAT_PIXEL_DATA) // the first of the elements with pixels
        .open_file(path)
        .map_err(|error| one_line(&error))?
        .into_inner();
    let slices = images(path, &object, syntax, scanned)?;
    Ok((object, slices))
}

fn images(
    path: &Path,
    file: &InMemDicomObject,
    syntax: Syntax,
    scanned: &Scanned,
) -> Result<Vec<Slice>, String> {
    if file.get(tags::ROWS).is_none() || text(file, tags::MODALITY) == "SEG" {
        return Ok(Vec::new());
    }
    let mut source = Source::read(path, file, syntax, scanned.is_float)?;
    let Source { rows, columns, frames, bits, .. } = source;
    let expected = (rows * columns * frames * bits.bytes()) as u64;
    match &scanned.pixels {
        Some(pixels) if pixels.end - pixels.start < expected => {
            let bytes = pixels.end - pixels.start;
            return Err(format!(
                "{frames} × {rows} × {columns} pixels need {expected} bytes, it has {bytes}"
            ));
        }
        None if syntax == Syntax::Native => return Err("no pixel data".into()),
        _ => {}
    }
    let is_as_stored = syntax == Syntax::Native && !Encoding::of_uid(&scanned.transfer_syntax).is_big_endian;
    source.pixels_at = scanned.pixels.as_ref().filter(|_| is_as_stored).map(|pixels| pixels.start);
    let source = Arc::new(source);
    (0..frames).map(|frame| Slice::read(file, &source, frame)).collect()
}
