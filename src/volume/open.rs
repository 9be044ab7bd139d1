//! Opening a volume: a NIfTI file, one of a pair, or a DICOM series.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::VolumeError;
use super::from_dicom;
use super::gzip::GzipMembers;
use super::header::{EXTENDER_BYTES, Header, VoxelType};
use super::raw_header::{Field, RawHeader, Version};
use crate::dicom;

/// Deflate cannot compress by a larger factor.
const DEFLATE_MAX_RATIO: u64 = 1032;
/// A longer extension means a damaged header.
const MOST_EXTENSION_BYTES: u64 = 1 << 30;
/// Most bytes of extensions kept from a `.hdr` file.
const MOST_PAIR_EXTENSION_BYTES: u64 = 1 << 24;
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
        Ok((Self::new(path, raw, extension, voxel_type, (shape, channels)), source))
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
