//! A DICOM volume as the NIfTI file that it would be converted to, so that everything else knows only NIfTI.

use std::io::Read;
use std::path::Path;

use super::affine::column_norms;
use super::error::VolumeError;
use super::header::{EXTENDER_BYTES, Header, VoxelType};
use super::raw_header::{Field, RawHeader, Version};
use crate::dicom::{FrameReader, Numbers, Volume};

/// Millimetres (`NIFTI_UNITS_MM`).
const MILLIMETRES: f64 = 2.0;
/// Coordinates of the scanner (`NIFTI_XFORM_SCANNER_ANAT`).
const SCANNER: f64 = 1.0;

/// The header, and the voxels.
pub(super) fn open(path: &Path, volume: Volume) -> Result<(Header, Box<dyn Read>), VolumeError> {
    let (voxel_type, code, slope, intercept) = match volume.numbers() {
        Numbers::Stored { is_signed: true, slope, intercept } => (VoxelType::I16, 4.0, slope, intercept),
        Numbers::Stored { is_signed: false, slope, intercept } => (VoxelType::U16, 512.0, slope, intercept),
        Numbers::Real => (VoxelType::F32, 16.0, 1.0, 0.0),
    };
    let (shape, world_from_voxel) = (volume.shape(), volume.world_from_voxel());
    let mut raw = empty(path)?;
    let axes = shape.into_iter().zip(column_norms(&world_from_voxel));
    for (axis, (side, size)) in (1..).zip(axes) {
        raw.set(Field::Dim(axis), side as f64);
        raw.set(Field::Pixdim(axis), size);
    }
    for (row, values) in world_from_voxel.into_iter().enumerate() {
        values.into_iter().enumerate().for_each(|(column, value)| raw.set(Field::Srow(row, column), value));
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
    Ok((Header::new(path, raw, voxel_type, shape), Box::new(FrameReader::new(volume))))
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
