//! Header of a NIfTI file (`.nii`, `.nii.gz`, or `.hdr` with `.img`). Every byte is kept, so that label maps can
//! reuse it.
//!
//! Source: NIfTI-1.1 and NIfTI-2 (`nifti1.h`, `nifti2.h`). The `nifti` crate is not used: it does not support
//! version 2, reads only the first member of a gzip file (bgzip and pigz write several), scales voxels in f32, holds
//! several copies of a volume, and allocates whatever a hostile header asks for.

use std::path::{Path, PathBuf};

use super::affine::{Affine, column_norms};
use super::error::VolumeError;
use super::forms::world_from_voxel;
use super::raw_header::{Field, RawHeader};

/// Number of bytes that say whether extensions follow.
pub(super) const EXTENDER_BYTES: usize = 4;

/// The header and the bytes between it and the voxels.
#[derive(Debug, Clone)]
pub struct Header {
    path: PathBuf,
    pub(super) raw: RawHeader,
    /// The four bytes of the extender and what follows it up to the voxels.
    pub(super) extension: Vec<u8>,
    pub(super) voxel_type: VoxelType,
    shape: [usize; 3],
    channels: usize,
    world_from_voxel: Affine,
}

/// Voxel types that are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VoxelType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl VoxelType {
    pub(super) fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            2 => Self::U8,
            4 => Self::I16,
            8 => Self::I32,
            16 => Self::F32,
            64 => Self::F64,
            256 => Self::I8,
            512 => Self::U16,
            768 => Self::U32,
            1024 => Self::I64,
            1280 => Self::U64,
            _ => return None,
        })
    }

    pub(super) fn is_integer(self) -> bool {
        !matches!(self, Self::F32 | Self::F64)
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl Header {
    /// A header with the bytes that follow it, for a volume of this shape and number of channels.
    pub(super) fn new(
        path: &Path,
        raw: RawHeader,
        extension: Vec<u8>,
        voxel_type: VoxelType,
        (shape, channels): ([usize; 3], usize),
    ) -> Self {
        let world_from_voxel = world_from_voxel(&raw, shape, path);
        Self { path: path.into(), raw, extension, voxel_type, shape, channels, world_from_voxel }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of voxels along the stored axes `[x, y, z]`; z is 1 for a 2D image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of volumes in the file: the fourth dimension, or 1.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Maps voxel indices to world millimetres, whatever the file's unit: the sform, else the qform, else voxel
    /// sizes with the origin in the middle of the volume and x to the left. If they contradict each other, the one
    /// that agrees with `pixdim` is used (see `forms`).
    pub fn world_from_voxel(&self) -> Affine {
        self.world_from_voxel
    }

    pub(super) fn world_from_voxel_ref(&self) -> &Affine {
        &self.world_from_voxel
    }

    /// Voxel sizes along the stored axes, mm, from [`Header::world_from_voxel`].
    pub fn spacing_mm(&self) -> [f64; 3] {
        column_norms(&self.world_from_voxel)
    }

    /// `(slope, intercept)`; `(1, 0)` if the header has a slope of 0 or none.
    pub(super) fn scaling(&self) -> Result<(f64, f64), VolumeError> {
        let (slope, intercept) = (self.raw.real(Field::SclSlope), self.raw.real(Field::SclInter));
        if slope == 0.0 || !slope.is_finite() {
            Ok((1.0, 0.0))
        } else if intercept.is_finite() {
            Ok((slope, intercept))
        } else {
            Err(VolumeError::Header { path: self.path.clone(), reason: format!("scl_inter is {intercept}") })
        }
    }

    pub(super) fn is_little_endian(&self) -> bool {
        self.raw.is_little_endian
    }
}
