//! Voxels of a NIfTI file as numbers, decoded and scaled block by block.

use std::io::Read;
use std::path::Path;

use ndarray::{Array3, Array4, ShapeBuilder};

use super::align::{Regrid, TargetGrid, align};
use super::error::VolumeError;
use super::header::{Header, VoxelType};
use super::open::read_exact;
use super::warnings::warn_once;

/// Number of voxels decoded at a time.
const BLOCK: usize = 1 << 16;
/// Largest distance of a label from an integer, in any file.
const LABEL_ROUNDING: f64 = 1e-3;
/// The limit for integers stored with a slope: half a step of the stored values, but at most this.
const MOST_LABEL_ROUNDING: f64 = 0.05;

/// A volume in memory.
#[derive(Debug, Clone)]
pub struct Image {
    /// Header, extensions and affine.
    pub header: Header,
    /// Voxels `[channel, z, y, x]` (stored axes), with slope and intercept applied.
    pub voxels: Array4<f32>,
}

impl Image {
    /// Reads a 2D, 3D or 4D file (the fourth dimension is channels).
    ///
    /// # Errors
    /// Those of [`Header::read`], [`VolumeError::NonFinite`] and [`VolumeError::TooLarge`].
    pub fn read(path: &Path) -> Result<Self, VolumeError> {
        let (image, non_finite) = Self::read_counting(path)?;
        warn_of_non_finite(path, non_finite);
        Ok(image)
    }

    /// As [`Image::read`] without a warning; also returns the number of voxels that are not finite.
    ///
    /// # Errors
    /// Those of [`Image::read`].
    pub fn read_counting(path: &Path) -> Result<(Self, usize), VolumeError> {
        let mut reader = VoxelReader::open(path)?;
        let [x, y, z] = reader.header.shape();
        let channels = reader.header.channels();
        let mut voxels = reserve(path, channels * z * y * x)?;
        for _ in 0..channels {
            reader.append_channel(&mut voxels)?;
        }
        let non_finite = reader.end()?;
        let voxels = shaped(path, voxels, |v| Array4::from_shape_vec((channels, z, y, x), v))?;
        Ok((Self { header: reader.header, voxels }, non_finite))
    }
}

fn warn_of_non_finite(path: &Path, count: usize) {
    if count > 0 {
        let what = "voxels are NaN or infinite; they count as the smallest finite value";
        warn_once(path, format!("{count} {what}"));
    }
}

/// Reads a label volume: `[x, y, z]` as stored, and the voxel sizes in the same order, mm.
///
/// # Errors
/// Those of [`Header::read`]; [`VolumeError::Labels`]; [`VolumeError::Dimensions`] for a 4D file.
pub fn read_labels(path: &Path) -> Result<(Array3<u8>, [f64; 3]), VolumeError> {
    let (labels, header) = read_labels_and_header(path)?;
    Ok((labels, header.spacing_mm()))
}

/// Reads a label volume and brings it to the grid of `target`, `[x, y, z]` as the target is stored. Labels and
/// predictions are brought to another file's grid only by this function.
///
/// # Errors
/// Those of [`read_labels`]; [`VolumeError::OtherGrid`] depending on `regrid`.
pub fn read_labels_on(path: &Path, target: &TargetGrid, regrid: Regrid) -> Result<Array3<u8>, VolumeError> {
    let (labels, header) = read_labels_and_header(path)?;
    Ok(align(&header, target, regrid)?.nearest(labels, target.shape))
}

fn read_labels_and_header(path: &Path) -> Result<(Array3<u8>, Header), VolumeError> {
    let mut reader = VoxelReader::open(path)?;
    let [x, y, z] = reader.header.shape();
    expect_one_channel(&reader.header)?;
    let mut labels: Vec<u8> = reserve(path, x * y * z)?;
    let mut wrong = None;
    // Scaled integers and labels saved as float may differ from integers by rounding, but not by more.
    let is_scaled = reader.header.voxel_type.is_integer() && reader.slope != 1.0;
    let half_a_step = if is_scaled { 0.5 * reader.slope.abs() } else { 0.0 };
    let rounding = half_a_step.clamp(LABEL_ROUNDING, MOST_LABEL_ROUNDING) * 1.01; // slope and intercept are rounded, too
    reader.read(1, |values| {
        labels.extend(values.iter().map(|&value| {
            let label = value.round();
            let is_integer = (value - label).abs() <= rounding + 1e-6 * label.abs();
            if !is_integer || !(0.0..=255.0).contains(&label) {
                wrong.get_or_insert(value);
            }
            label as u8
        }));
    })?;
    reader.finish()?;
    if let Some(value) = wrong {
        return Err(VolumeError::Labels { path: path.into(), value });
    }
    let labels = shaped(path, labels, |v| Array3::from_shape_vec((x, y, z).f(), v))?;
    Ok((labels, reader.header))
}

pub(super) fn expect_one_channel(header: &Header) -> Result<(), VolumeError> {
    if header.channels() == 1 {
        return Ok(());
    }
    let [x, y, z] = header.shape();
    Err(VolumeError::Dimensions {
        path: header.path().into(),
        shape: vec![x, y, z, header.channels()],
        expected: "one volume (2D or 3D)",
    })
}

/// An empty vector with capacity for `voxels` items.
pub(super) fn reserve<T>(path: &Path, voxels: usize) -> Result<Vec<T>, VolumeError> {
    let mut items = Vec::new();
    match items.try_reserve_exact(voxels) {
        Ok(()) => Ok(items),
        Err(_) => Err(VolumeError::TooLarge { path: path.into(), voxels: voxels as u64 }),
    }
}

fn shaped<T, A>(
    path: &Path,
    voxels: Vec<T>,
    to_array: impl FnOnce(Vec<T>) -> Result<A, ndarray::ShapeError>,
) -> Result<A, VolumeError> {
    let count = voxels.len() as u64;
    to_array(voxels).map_err(|_| VolumeError::TooLarge { path: path.into(), voxels: count })
}

/// A file whose channels are read one after another.
pub(super) struct VoxelReader {
    pub(super) header: Header,
    source: Box<dyn Read>,
    slope: f64,
    intercept: f64,
    non_finite: usize,
}

impl VoxelReader {
    pub(super) fn open(path: &Path) -> Result<Self, VolumeError> {
        let (header, source) = Header::open(path)?;
        let (slope, intercept) = header.scaling()?;
        Ok(Self { header, source, slope, intercept, non_finite: 0 })
    }

    /// Reads the next channel, `[x, y, z]` as stored. Voxels that are not finite get the channel's smallest finite
    /// value, and [`VoxelReader::finish`] reports them.
    pub(super) fn read_channel(&mut self) -> Result<Array3<f32>, VolumeError> {
        let [x, y, z] = self.header.shape();
        let mut voxels = reserve(self.header.path(), x * y * z)?;
        self.append_channel(&mut voxels)?;
        shaped(self.header.path(), voxels, |v| Array3::from_shape_vec((x, y, z).f(), v))
    }

    fn append_channel(&mut self, voxels: &mut Vec<f32>) -> Result<(), VolumeError> {
        let first = voxels.len();
        let (mut non_finite, mut smallest) = (0, f32::INFINITY);
        self.read(1, |values| {
            voxels.extend(values.iter().map(|&value| {
                let voxel = value as f32;
                if voxel.is_finite() {
                    smallest = smallest.min(voxel);
                } else {
                    non_finite += 1;
                }
                voxel
            }));
        })?;
        if non_finite > 0 {
            if smallest == f32::INFINITY {
                return Err(VolumeError::NonFinite { path: self.header.path().into(), count: non_finite });
            }
            voxels[first..].iter_mut().filter(|voxel| !voxel.is_finite()).for_each(|voxel| *voxel = smallest);
            self.non_finite += non_finite;
        }
        Ok(())
    }

    fn read(&mut self, channels: usize, mut take: impl FnMut(&[f64])) -> Result<(), VolumeError> {
        let size = self.header.voxel_type.bytes();
        let channel_voxels: usize = self.header.shape().iter().product();
        let expected = (channel_voxels * self.header.channels() * size) as u64;
        let mut bytes = vec![0; BLOCK * size];
        let mut values = Vec::with_capacity(BLOCK);
        let mut left = channels * channel_voxels;
        while left > 0 {
            let count = left.min(BLOCK);
            let block = &mut bytes[..count * size];
            read_exact(&mut self.source, block, self.header.path(), expected)?;
            values.clear();
            decode(block, self.header.voxel_type, self.header.is_little_endian(), &mut values);
            if (self.slope, self.intercept) != (1.0, 0.0) {
                values.iter_mut().for_each(|value| *value = *value * self.slope + self.intercept);
            }
            take(&values);
            left -= count;
        }
        Ok(())
    }

    /// Reads to the end of the file, and warns about voxels that are not finite.
    pub(super) fn finish(&mut self) -> Result<(), VolumeError> {
        let non_finite = self.end()?;
        warn_of_non_finite(self.header.path(), non_finite);
        Ok(())
    }

    /// Reads to the end of the file, so that a damaged gzip trailer is noticed. Returns the number of voxels that
    /// are not finite.
    fn end(&mut self) -> Result<usize, VolumeError> {
        const MOST_TRAILING_BYTES: u64 = 1 << 20;
        let path = self.header.path();
        let mut rest = (&mut self.source).take(MOST_TRAILING_BYTES);
        std::io::copy(&mut rest, &mut std::io::sink()).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let voxels = self.header.shape().iter().product::<usize>() * self.header.channels();
                let expected = (voxels * self.header.voxel_type.bytes()) as u64;
                VolumeError::Truncated { path: path.into(), expected }
            }
            _ => VolumeError::Io { path: path.into(), source },
        })?;
        Ok(self.non_finite)
    }
}

fn decode(bytes: &[u8], voxel_type: VoxelType, is_little_endian: bool, values: &mut Vec<f64>) {
    macro_rules! decode_as {
        ($type:ty) => {{
            let (voxels, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
            if is_little_endian {
                values.extend(voxels.iter().map(|&voxel| <$type>::from_le_bytes(voxel) as f64));
            } else {
                values.extend(voxels.iter().map(|&voxel| <$type>::from_be_bytes(voxel) as f64));
            }
        }};
    }
    match voxel_type {
        VoxelType::U8 => decode_as!(u8),
        VoxelType::I8 => decode_as!(i8),
        VoxelType::U16 => decode_as!(u16),
        VoxelType::I16 => decode_as!(i16),
        VoxelType::U32 => decode_as!(u32),
        VoxelType::I32 => decode_as!(i32),
        VoxelType::U64 => decode_as!(u64),
        VoxelType::I64 => decode_as!(i64),
        VoxelType::F32 => decode_as!(f32),
        VoxelType::F64 => decode_as!(f64),
    }
}
