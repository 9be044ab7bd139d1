//! A DICOM volume as the NIfTI file that it would be converted to, so that everything else knows only NIfTI.

use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::affine::{Affine, column_norms};
use super::error::VolumeError;
use super::header::{EXTENDER_BYTES, Header, VoxelType};
use super::raw_header::{Field, RawHeader, Version};
use crate::dicom::{FrameReader, Numbers, Volume};
use crate::files::write_atomically;

/// Largest number in `dim`, an array of 16-bit integers.
const LONGEST_SIDE: usize = i16::MAX as usize;
/// The type of real values (`DT_FLOAT32`).
const FLOAT32: f64 = 16.0;
/// Millimetres (`NIFTI_UNITS_MM`).
const MILLIMETRES: f64 = 2.0;
/// Coordinates of the scanner (`NIFTI_XFORM_SCANNER_ANAT`).
const SCANNER: f64 = 1.0;

/// The header, and the voxels.
pub(super) fn open(path: &Path, volume: Volume) -> Result<(Header, Box<dyn Read>), VolumeError> {
    let (voxel_type, code, slope, intercept) = match volume.numbers() {
        Numbers::Stored { is_signed: true, slope, intercept } => (VoxelType::I16, 4.0, slope, intercept),
        Numbers::Stored { is_signed: false, slope, intercept } => (VoxelType::U16, 512.0, slope, intercept),
        Numbers::Real => (VoxelType::F32, FLOAT32, 1.0, 0.0),
    };
    let (shape, world_from_voxel) = (volume.shape(), volume.world_from_voxel());
    let raw = header(path, shape, &world_from_voxel, (voxel_type, code), (slope, intercept))?;
    let header = Header::new(path, raw, vec![0; EXTENDER_BYTES], voxel_type, (shape, 1));
    Ok((header, Box::new(FrameReader::new(volume))))
}

/// Writes real values in the order of [`Volume`] (x fastest) as the NIfTI file (`.nii.gz`) of a series. It appears
/// complete or not at all.
///
/// # Errors
/// [`VolumeError::Io`].
pub fn write_series<'a>(
    path: &Path,
    shape: [usize; 3],
    world_from_voxel: &Affine,
    slices: impl Iterator<Item = &'a [f32]>,
) -> Result<(), VolumeError> {
    let raw = header(path, shape, world_from_voxel, (VoxelType::F32, FLOAT32), (1.0, 0.0))?;
    write_atomically(path, |file| {
        let mut gzip = GzEncoder::new(file, Compression::fast());
        gzip.write_all(&raw.bytes)?;
        gzip.write_all(&[0; EXTENDER_BYTES])?;
        let mut bytes = Vec::new();
        for slice in slices {
            bytes.clear();
            bytes.extend(slice.iter().flat_map(|value| value.to_le_bytes()));
            gzip.write_all(&bytes)?;
        }
        gzip.finish().map(|_| ())
    })
    .map_err(|source| VolumeError::Io { path: path.into(), source })
}

/// The header of the NIfTI file of a series, with a type and its code, slope and intercept.
fn header(
    path: &Path,
    shape: [usize; 3],
    world_from_voxel: &Affine,
    (voxel_type, code): (VoxelType, f64),
    (slope, intercept): (f64, f64),
) -> Result<RawHeader, VolumeError> {
    if let Some(side) = shape.into_iter().find(|&side| side > LONGEST_SIDE) {
        let reason = format!("a side of {side} voxels; NIfTI-1 counts to {LONGEST_SIDE}");
        return Err(VolumeError::Header { path: path.into(), reason });
    }
    let mut raw = empty(path)?;
    let axes = shape.into_iter().zip(column_norms(world_from_voxel));
    for (axis, (side, size)) in (1..).zip(axes) {
        raw.set(Field::Dim(axis), side as f64);
        raw.set(Field::Pixdim(axis), size);
    }
    for (row, values) in world_from_voxel.iter().enumerate() {
        values.iter().enumerate().for_each(|(column, &value)| raw.set(Field::Srow(row, column), value));
    }
    for (field, value) in [
        (Field::Datatype, code),
        (Field::Bitpix, 8.0 * voxel_type.bytes() as f64),
        (Field::SclSlope, slope),
        (Field::SclInter, intercept),
        (Field::XyztUnits, MILLIMETRES),
        (Field::SformCode, SCANNER),
        (Field::VoxOffset, (Version::One.header_bytes() + EXTENDER_BYTES) as f64),
    ] {
        raw.set(field, value);
    }
    Ok(raw)
}

/// A header of a 3D volume in a single little-endian file; all other fields are zero.
fn empty(path: &Path) -> Result<RawHeader, VolumeError> {
    let version = Version::One;
    let size = version.header_bytes();
    let mut bytes = vec![0; size];
    bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
    let mut raw = RawHeader { bytes, version, is_little_endian: true, is_pair: false };
    raw.set(Field::Dim(0), 3.0);
    (4..8).for_each(|axis| raw.set(Field::Dim(axis), 1.0));
    let magic = raw.single_file_magic();
    raw.set_text(Field::Magic, magic);
    RawHeader::new(raw.bytes, version, true, path)
}
