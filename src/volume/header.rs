//! Header of a NIfTI file (`.nii`, `.nii.gz`, or `.hdr` with `.img`). Every byte is kept, so that label maps can
//! reuse it.
//!
//! Source: NIfTI-1.1 and NIfTI-2 (`nifti1.h`, `nifti2.h`). The `nifti` crate is not used: it does not support
//! version 2, reads only the first member of a gzip file (bgzip and pigz write several), scales voxels in f32, holds
//! several copies of a volume, and allocates whatever a hostile header asks for.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::affine::{Affine, column_norms};
use super::error::VolumeError;
use super::forms::world_from_voxel;
use super::from_dicom;
use super::gzip::GzipMembers;
use super::raw_header::{Field, RawHeader, Version};
use crate::dicom;

/// Deflate cannot compress by a larger factor.
const DEFLATE_MAX_RATIO: u64 = 1032;
/// A longer extension means a damaged header.
const MOST_EXTENSION_BYTES: u64 = 1 << 30;
/// Most bytes of extensions kept from a `.hdr` file.
const MOST_PAIR_EXTENSION_BYTES: u64 = 1 << 24;
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
    fn from_code(code: i64) -> Option<Self> {
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
    /// Reads the header of `path`, but no voxels. Either file of a pair may be given. A DICOM series (a path of
    /// [`crate::dicom::Found`]) has the header of its NIfTI.
    ///
    /// # Errors
    /// [`VolumeError::Io`], [`VolumeError::NotNifti`], [`VolumeError::Truncated`], [`VolumeError::Header`],
    /// [`VolumeError::ZeroDimension`], [`VolumeError::Dimensions`] (more than four dimensions) and
    /// [`VolumeError::Dicom`].
    pub fn read(path: &Path) -> Result<Self, VolumeError> {
        Ok(Self::open(path)?.0)
    }

    /// The header, and the file positioned at its first voxel.
    pub(super) fn open(path: &Path) -> Result<(Self, Box<dyn Read>), VolumeError> {
        if let Some(volume) = dicom::locate(path)? {
            return from_dicom::open(path, volume);
        }
        let header_path = header_of_pair(path).unwrap_or_else(|| path.to_path_buf());
        let (mut source, mut most_bytes) = open_bytes(&header_path)?;
        let raw = read_raw(&mut source, &header_path)?;
        let voxel_type = raw.integer(Field::Datatype);
        let voxel_type = VoxelType::from_code(voxel_type).ok_or_else(|| VolumeError::Header {
            path: path.into(),
            reason: format!("voxels of NIfTI type {voxel_type} are not numbers of up to 64 bits"),
        })?;
        let sides = sides(&raw, path)?;
        let (shape, channels) = match *sides.as_slice() {
            [x, y] => ([x, y, 1], 1),
            [x, y, z] => ([x, y, z], 1),
            [x, y, z, channels] => ([x, y, z], channels),
            _ => {
                let expected = "2, 3 or 4 dimensions";
                return Err(VolumeError::Dimensions { path: path.into(), shape: sides, expected });
            }
        };
        let voxels = sides.iter().fold(1u64, |voxels, &side| voxels.saturating_mul(side as u64));
        let expected = voxels.saturating_mul(voxel_type.bytes() as u64);
        let offset = voxel_offset(&raw, path)?;
        let mut extension = Vec::new();
        if raw.is_pair {
            (&mut source)
                .take(MOST_PAIR_EXTENSION_BYTES)
                .read_to_end(&mut extension)
                .map_err(|source| io_error(&header_path, source))?;
            (source, most_bytes) = open_bytes(&voxels_of_pair(&header_path)?)?;
        }
        if expected.saturating_add(offset) > most_bytes {
            return Err(VolumeError::Truncated { path: path.into(), expected });
        }
        let mut gap = vec![0; (offset - first_offset(&raw)) as usize];
        read_exact(&mut source, &mut gap, path, expected)?;
        if !raw.is_pair {
            extension = gap;
        }
        let world_from_voxel = world_from_voxel(&raw, shape, path);
        let path = path.to_path_buf();
        let header = Self { path, raw, extension, voxel_type, shape, channels, world_from_voxel };
        Ok((header, source))
    }

    /// A little-endian header for voxels that follow it without an extension.
    pub(super) fn new(path: &Path, raw: RawHeader, voxel_type: VoxelType, shape: [usize; 3]) -> Self {
        let world_from_voxel = world_from_voxel(&raw, shape, path);
        let extension = vec![0; EXTENDER_BYTES];
        Self { path: path.into(), raw, extension, voxel_type, shape, channels: 1, world_from_voxel }
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

fn io_error(path: &Path, source: std::io::Error) -> VolumeError {
    VolumeError::Io { path: path.into(), source }
}

/// Reads the header's bytes; the first field gives their number.
fn read_raw(source: &mut dyn Read, path: &Path) -> Result<RawHeader, VolumeError> {
    let mut size = [0; 4];
    read_exact(source, &mut size, path, 0)?;
    let (version, is_little_endian) = Version::of_size(size)
        .ok_or_else(|| VolumeError::NotNifti { path: path.into(), reason: "wrong header size" })?;
    let mut bytes = size.to_vec();
    bytes.resize(version.header_bytes(), 0);
    read_exact(source, &mut bytes[size.len()..], path, 0)?;
    RawHeader::new(bytes, version, is_little_endian, path)
}

/// The `.hdr` beside an `.img`.
fn header_of_pair(path: &Path) -> Option<PathBuf> {
    with_other_ending(path, ".img", ".hdr")
        .and_then(|candidates| candidates.into_iter().find(|path| path.is_file()))
}

/// The `.img` beside a `.hdr`.
pub(super) fn voxels_beside(header: &Path) -> Option<PathBuf> {
    with_other_ending(header, ".hdr", ".img")?.into_iter().find(|path| path.is_file())
}

fn voxels_of_pair(header: &Path) -> Result<PathBuf, VolumeError> {
    let reason = "a header whose voxels are in an .img file, which is not beside it";
    voxels_beside(header).ok_or_else(|| VolumeError::NotNifti { path: header.into(), reason })
}

/// `path` with the extension `to` instead of `from`, compressed or not; `None` if it does not have the extension
/// `from`.
fn with_other_ending(path: &Path, from: &str, to: &str) -> Option<[PathBuf; 2]> {
    let name = path.file_name()?.to_str()?;
    let lower = name.to_ascii_lowercase();
    let stem = [from.to_owned(), format!("{from}.gz")].iter().find_map(|ending| {
        let length = lower.strip_suffix(ending.as_str())?.len();
        Some(&name[..length])
    })?;
    let is_upper = name[stem.len()..].starts_with(&from.to_ascii_uppercase());
    let with = |ending: String| {
        let ending = if is_upper { ending.to_ascii_uppercase() } else { ending };
        path.with_file_name(format!("{stem}{ending}"))
    };
    Some([with(to.to_owned()), with(format!("{to}.gz"))])
}

/// Opens a plain or gzipped file, detected by its content, and returns an upper bound for the number of bytes in it.
fn open_bytes(path: &Path) -> Result<(Box<dyn Read>, u64), VolumeError> {
    let io = |source| io_error(path, source);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut file = BufReader::with_capacity(1 << 18, file);
    let is_gzip = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
    if is_gzip {
        Ok((Box::new(GzipMembers::new(file, path)), length.saturating_mul(DEFLATE_MAX_RATIO)))
    } else {
        Ok((Box::new(file), length))
    }
}

/// As `read_exact`, with errors that name the file; `expected` is the number of bytes that the header announces.
pub(super) fn read_exact(
    source: &mut dyn Read,
    buffer: &mut [u8],
    path: &Path,
    expected: u64,
) -> Result<(), VolumeError> {
    source.read_exact(buffer).map_err(|source| match source.kind() {
        ErrorKind::UnexpectedEof if expected == 0 => {
            VolumeError::NotNifti { path: path.into(), reason: "shorter than a header" }
        }
        ErrorKind::UnexpectedEof => VolumeError::Truncated { path: path.into(), expected },
        _ => io_error(path, source),
    })
}

/// Sides of the volume, without trailing dimensions of size 1 beyond the third.
fn sides(raw: &RawHeader, path: &Path) -> Result<Vec<usize>, VolumeError> {
    let rank = raw.integer(Field::Dim(0)).clamp(1, 7) as usize;
    let mut sides = Vec::with_capacity(rank);
    for axis in 1..=rank {
        let side = raw.integer(Field::Dim(axis));
        if side == 0 {
            return Err(VolumeError::ZeroDimension { path: path.into(), axis });
        }
        sides.push(usize::try_from(side).map_err(|_| VolumeError::Header {
            path: path.into(),
            reason: format!("dimension of {side}"),
        })?);
    }
    while sides.len() > 3 && sides.last() == Some(&1) {
        sides.pop();
    }
    Ok(sides)
}

/// The smallest possible offset of the voxels.
fn first_offset(raw: &RawHeader) -> u64 {
    if raw.is_pair { 0 } else { raw.version.header_bytes() as u64 }
}

/// The offset of the voxels.
fn voxel_offset(raw: &RawHeader, path: &Path) -> Result<u64, VolumeError> {
    let first = if raw.is_pair { 0 } else { (raw.version.header_bytes() + EXTENDER_BYTES) as u64 };
    let offset = raw.real(Field::VoxOffset);
    if offset == 0.0 {
        Ok(first)
    } else if (first as f64..MOST_EXTENSION_BYTES as f64).contains(&offset) {
        Ok(offset as u64)
    } else {
        Err(VolumeError::Header { path: path.into(), reason: format!("vox_offset is {offset}") })
    }
}
