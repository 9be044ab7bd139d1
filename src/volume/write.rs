//! Label volumes on disk: the image's header byte for byte, except for what makes it a volume of labels.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::Array3;

use super::error::VolumeError;
use super::header::{HEADER_BYTES, Header};

/// Writes `labels` (`[x, y, z]` as stored) beside the image `reference`, whose affine, forms, units and
/// extensions are kept; voxels are unsigned bytes, unscaled. A name ending in `.gz` is compressed. The file
/// appears whole and synced or not at all. A 2D image gets 2D labels, a 4D image 3D labels.
///
/// # Errors
/// Those of [`Header::read`] for the reference, [`VolumeError::ShapeMismatch`] and [`VolumeError::Io`].
pub fn write_labels(path: &Path, labels: &Array3<u8>, reference: &Path) -> Result<(), VolumeError> {
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
    let header = label_header(&reference);
    let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    replace_file(path, |file| {
        if is_gzip {
            let mut gzip = GzEncoder::new(BufWriter::new(file), Compression::default());
            write_parts(&mut gzip, &header, &reference.extension, labels)?;
            gzip.finish()?.flush()
        } else {
            let mut file = BufWriter::new(file);
            write_parts(&mut file, &header, &reference.extension, labels)?;
            file.flush()
        }
    })
    .map_err(|source| VolumeError::Io { path: path.into(), source })
}

fn write_parts(sink: &mut dyn Write, header: &[u8], extension: &[u8], labels: &Array3<u8>) -> io::Result<()> {
    sink.write_all(header)?;
    sink.write_all(extension)?;
    let mut row = Vec::new();
    for plane in labels.view().reversed_axes().outer_iter() {
        row.clear();
        row.extend(plane.iter());
        sink.write_all(&row)?;
    }
    Ok(())
}

/// Byte offsets of the fields that change (`nifti1.h`).
mod offset {
    pub const DIM: usize = 40;
    pub const DATATYPE: usize = 70;
    pub const BITPIX: usize = 72;
    pub const VOX_OFFSET: usize = 108;
    pub const SCL_SLOPE: usize = 112;
    pub const SCL_INTER: usize = 116;
    pub const CAL_MAX: usize = 124;
    pub const CAL_MIN: usize = 128;
}

fn label_header(reference: &Header) -> Vec<u8> {
    const UINT8: i16 = 2;
    let mut raw = reference.raw.clone();
    let is_little_endian = reference.is_little_endian();
    let mut put_i16 = |at: usize, value: i16| {
        let bytes = if is_little_endian { value.to_le_bytes() } else { value.to_be_bytes() };
        raw[at..at + 2].copy_from_slice(&bytes);
    };
    put_i16(offset::DATATYPE, UINT8);
    put_i16(offset::BITPIX, 8);
    if reference.fields.dim[0] > 3 {
        put_i16(offset::DIM, 3);
        (4..8).for_each(|axis| put_i16(offset::DIM + 2 * axis, 1));
    }
    let mut put_f32 = |at: usize, value: f32| {
        let bytes = if is_little_endian { value.to_le_bytes() } else { value.to_be_bytes() };
        raw[at..at + 4].copy_from_slice(&bytes);
    };
    put_f32(offset::VOX_OFFSET, (HEADER_BYTES + reference.extension.len()) as f32);
    put_f32(offset::SCL_SLOPE, 1.0);
    put_f32(offset::SCL_INTER, 0.0);
    put_f32(offset::CAL_MAX, 0.0);
    put_f32(offset::CAL_MIN, 0.0);
    raw
}

/// Writes a file beside `path`, syncs it and renames it to `path`; on any error nothing is left behind.
fn replace_file(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".spsam-")
        .suffix(".part")
        .permissions(Permissions::from_mode(0o666)) // less the umask, as for any new file
        .tempfile_in(folder)?;
    write(temporary.as_file())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}
