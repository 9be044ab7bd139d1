//! NIfTI-1 header of a `.nii` or `.nii.gz` file, with every byte kept for writing labels beside it.
//!
//! Source: NIfTI-1.1 (`nifti1.h`). The fields are decoded by the `nifti` crate. Its voxel reader is not used: it
//! scales in f32, holds several copies of a volume, reads only the first member of a gzip file (bgzip and
//! pigz write several) and reserves what a hostile header asks for.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use nifti::{Endianness, NiftiHeader};

use super::affine::{Affine, column_norms, inverse};
use super::error::VolumeError;

/// Bytes of a NIfTI-1 header.
pub(super) const HEADER_BYTES: usize = 348;
/// Deflate cannot shrink by more than this.
const DEFLATE_MAX_RATIO: u64 = 1032;

/// Header, and what lies between it and the voxels.
#[derive(Debug, Clone)]
pub struct Header {
    path: PathBuf,
    pub(super) raw: Vec<u8>,
    pub(super) extension: Vec<u8>,
    pub(super) fields: NiftiHeader,
    pub(super) voxel_type: VoxelType,
    shape: [usize; 3],
    channels: usize,
    world_from_voxel: Affine,
}

/// Types of voxels that are numbers.
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
    fn from_code(code: i16) -> Option<Self> {
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
    /// Reads the header of `path`; voxels are not touched.
    ///
    /// # Errors
    /// [`VolumeError::Io`], [`VolumeError::NotNifti`], [`VolumeError::Truncated`], [`VolumeError::Header`],
    /// [`VolumeError::ZeroDimension`] and [`VolumeError::Dimensions`] (more than four dimensions).
    pub fn read(path: &Path) -> Result<Self, VolumeError> {
        Ok(Self::open(path)?.0)
    }

    /// The header, and the file positioned at its first voxel.
    pub(super) fn open(path: &Path) -> Result<(Self, Box<dyn Read>), VolumeError> {
        let (mut source, most_bytes) = open_bytes(path)?;
        let mut raw = vec![0; HEADER_BYTES];
        read_exact(&mut source, &mut raw, path, 0)?;
        let fields = parse(&raw, path)?;
        let voxel_type = VoxelType::from_code(fields.datatype).ok_or_else(|| VolumeError::Header {
            path: path.into(),
            reason: format!("voxels of NIfTI type {} are not numbers of up to 64 bits", fields.datatype),
        })?;
        let sides = sides(&fields, path)?;
        let (shape, channels) = match *sides.as_slice() {
            [x, y] => ([x, y, 1], 1),
            [x, y, z] => ([x, y, z], 1),
            [x, y, z, channels] => ([x, y, z], channels),
            _ => {
                let expected = "2, 3 or 4 dimensions";
                return Err(VolumeError::Dimensions { path: path.into(), shape: sides, expected });
            }
        };
        let voxels = sides.iter().map(|&side| side as u64).product::<u64>(); // at most 2^60
        let expected = voxels.saturating_mul(voxel_type.bytes() as u64);
        let offset = voxel_offset(&fields, path)?;
        if expected.saturating_add(offset) > most_bytes {
            return Err(VolumeError::Truncated { path: path.into(), expected });
        }
        let mut extension = vec![0; offset as usize - HEADER_BYTES];
        read_exact(&mut source, &mut extension, path, expected)?;
        let world_from_voxel = world_from_voxel(&fields, shape);
        let path = path.to_path_buf();
        let header = Self { path, raw, extension, fields, voxel_type, shape, channels, world_from_voxel };
        Ok((header, source))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Voxels along the stored axes `[x, y, z]`; z is 1 for a 2D image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Volumes in the file: the fourth dimension, or 1.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Voxel to world millimetres: the sform, or else the qform, or else voxel sizes centred on the volume with
    /// x to the left (as nibabel does). A form that is singular is passed over.
    pub fn world_from_voxel(&self) -> Affine {
        self.world_from_voxel
    }

    /// Voxel sizes along the stored axes, mm, from [`Header::world_from_voxel`].
    pub fn spacing_mm(&self) -> [f64; 3] {
        column_norms(&self.world_from_voxel)
    }

    /// `(slope, intercept)`; `(1, 0)` where the header has a slope of 0 or none.
    pub(super) fn scaling(&self) -> Result<(f64, f64), VolumeError> {
        let (slope, intercept) = (f64::from(self.fields.scl_slope), f64::from(self.fields.scl_inter));
        if slope == 0.0 || !slope.is_finite() {
            Ok((1.0, 0.0))
        } else if intercept.is_finite() {
            Ok((slope, intercept))
        } else {
            Err(VolumeError::Header { path: self.path.clone(), reason: format!("scl_inter is {intercept}") })
        }
    }

    pub(super) fn is_little_endian(&self) -> bool {
        self.fields.endianness == Endianness::Little
    }
}

/// Opens a plain or gzipped file, told apart by content, and bounds how many bytes can come out of it.
fn open_bytes(path: &Path) -> Result<(Box<dyn Read>, u64), VolumeError> {
    let io = |source| VolumeError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut file = BufReader::with_capacity(1 << 18, file);
    let is_gzip = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
    if is_gzip {
        Ok((Box::new(MultiGzDecoder::new(file)), length.saturating_mul(DEFLATE_MAX_RATIO)))
    } else {
        Ok((Box::new(file), length))
    }
}

/// `read_exact` with errors that name the file; `expected` is what the header announces.
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
        _ => VolumeError::Io { path: path.into(), source },
    })
}

fn parse(raw: &[u8], path: &Path) -> Result<NiftiHeader, VolumeError> {
    let not_nifti = |reason| VolumeError::NotNifti { path: path.into(), reason };
    let size = [raw[0], raw[1], raw[2], raw[3]];
    let is_size = |bytes: i32| [bytes.to_le_bytes(), bytes.to_be_bytes()].contains(&size);
    if is_size(540) {
        return Err(not_nifti("NIfTI-2 is not supported"));
    } else if !is_size(HEADER_BYTES as i32) {
        return Err(not_nifti("wrong header size"));
    }
    match &raw[344..348] {
        b"n+1\0" => {}
        b"ni1\0" => return Err(not_nifti("pairs of .hdr and .img are not supported")),
        _ => return Err(not_nifti("wrong magic")),
    }
    let fields = NiftiHeader::from_reader(raw).map_err(|_| not_nifti("unreadable header"))?;
    if fields.sizeof_hdr == HEADER_BYTES as i32 { Ok(fields) } else { Err(not_nifti("mixed byte orders")) }
}

/// Sides of the volume without trailing ones beyond the third.
fn sides(fields: &NiftiHeader, path: &Path) -> Result<Vec<usize>, VolumeError> {
    let rank = usize::from(fields.dim[0]);
    let mut sides: Vec<usize> = fields.dim.iter().skip(1).take(rank).map(|&side| usize::from(side)).collect();
    if let Some(axis) = sides.iter().position(|&side| side == 0) {
        return Err(VolumeError::ZeroDimension { path: path.into(), axis: axis + 1 });
    } else if let Some(side) = sides.iter().find(|&&side| side > i16::MAX as usize) {
        let reason = format!("dimension of {}", *side as u16 as i16);
        return Err(VolumeError::Header { path: path.into(), reason });
    }
    while sides.len() > 3 && sides.last() == Some(&1) {
        sides.pop();
    }
    Ok(sides)
}

fn voxel_offset(fields: &NiftiHeader, path: &Path) -> Result<u64, VolumeError> {
    const FIRST: f32 = HEADER_BYTES as f32 + 4.0; // header and extender
    const LAST: f32 = (1 << 30) as f32; // an extension of a gigabyte is a broken header
    let offset = fields.vox_offset;
    if offset == 0.0 {
        Ok(FIRST as u64)
    } else if (FIRST..LAST).contains(&offset) {
        Ok(offset as u64)
    } else {
        Err(VolumeError::Header { path: path.into(), reason: format!("vox_offset is {offset}") })
    }
}

fn world_from_voxel(fields: &NiftiHeader, shape: [usize; 3]) -> Affine {
    let is_usable =
        |affine: &Affine| affine.iter().flatten().all(|value| value.is_finite()) && inverse(affine).is_some();
    let sizes = [1, 2, 3].map(|axis| match f64::from(fields.pixdim[axis]).abs() {
        size if size.is_finite() && size > 0.0 => size,
        _ => 1.0,
    });
    let sform = || [fields.srow_x, fields.srow_y, fields.srow_z].map(|row| row.map(f64::from));
    let centred = || {
        let signs = [-1.0, 1.0, 1.0];
        let mut affine = [[0.0; 4]; 3];
        for (axis, row) in affine.iter_mut().enumerate() {
            row[axis] = signs[axis] * sizes[axis];
            row[3] = -row[axis] * (shape[axis] as f64 - 1.0) / 2.0;
        }
        affine
    };
    let forms = [
        (fields.sform_code > 0).then(sform),
        (fields.qform_code > 0).then(|| affine_of_quaternion(fields, sizes)),
    ];
    forms.into_iter().flatten().find(is_usable).unwrap_or_else(centred)
}

/// Method 2 of NIfTI-1: rotation by a unit quaternion, voxel sizes, offset.
fn affine_of_quaternion(fields: &NiftiHeader, sizes: [f64; 3]) -> Affine {
    let [b, c, d] = [fields.quatern_b, fields.quatern_c, fields.quatern_d].map(f64::from);
    let a = (1.0 - b * b - c * c - d * d).max(0.0).sqrt();
    let length = (a * a + b * b + c * c + d * d).sqrt();
    let [a, b, c, d] = [a, b, c, d].map(|part| part / length);
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    let handedness = if fields.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let scale = [sizes[0], sizes[1], sizes[2] * handedness];
    let offset = [fields.quatern_x, fields.quatern_y, fields.quatern_z].map(f64::from);
    [0, 1, 2].map(|row| {
        let [x, y, z] = [0, 1, 2].map(|column| rotation[row][column] * scale[column]);
        [x, y, z, offset[row]]
    })
}
