//! The voxels of a volume, decoded frame by frame while they are read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use dicom_pixeldata::PixelDecoder;

use super::error::DicomError;
use super::geometry::{Numbers, Volume};
use super::slice::Slice;
use super::source::{Bits, one_line};
use super::syntax::Syntax;

/// The element behind the pixel data.
const BEHIND_PIXELS: Tag = Tag(0x7fe0, 0x0011);
/// Start of a JPEG 2000 code stream with its size: markers SOC and SIZ.
const CODE_STREAM: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];

/// Gives the voxels in the order of the volume, x fastest; see [`Numbers`] for their type.
pub struct FrameReader {
    volume: Volume,
    next: usize,
    bytes: Vec<u8>,
    at: usize,
    pixels: PixelFile,
}

/// The file whose pixels were read last.
#[derive(Default)]
pub(super) struct PixelFile(Option<(PathBuf, Pixels)>);

enum Pixels {
    /// A file with the pixels as they are from this place on.
    InFile(File, u64),
    Native(Vec<u8>),
    Encapsulated(Box<DefaultDicomObject>),
}

impl FrameReader {
    pub fn new(volume: Volume) -> Self {
        Self { volume, next: 0, bytes: Vec::new(), at: 0, pixels: PixelFile::default() }
    }

    fn load(&mut self, index: usize) -> Result<(), DicomError> {
        let slice = &self.volume.slices[index];
        let stored = self.pixels.stored(slice)?;
        self.bytes.clear();
        for row in stored.chunks_exact(slice.source.columns * slice.source.bits.bytes()).rev() {
            match self.volume.numbers() {
                Numbers::Stored { .. } => {
                    self.bytes.extend(values(row, slice).flat_map(|value| (value as u16).to_le_bytes()));
                }
                Numbers::Real => self.bytes.extend(real(row, slice).flat_map(f32::to_le_bytes)),
            }
        }
        self.at = 0;
        Ok(())
    }
}

impl Read for FrameReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            if self.next == self.volume.slices.len() {
                return Ok(0);
            }
            self.load(self.next).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.next += 1;
        }
        let count = out.len().min(self.bytes.len() - self.at);
        out[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl PixelFile {
    /// The pixels of an image as they are stored, in the order of this machine's bytes.
    ///
    /// # Errors
    /// Names the file.
    pub fn stored(&mut self, slice: &Slice) -> Result<Vec<u8>, DicomError> {
        let path = &slice.source.path;
        let error = |reason: String| DicomError::file(path, reason);
        let pixels = match self.0.take() {
            Some((opened, pixels)) if opened == *path => pixels,
            _ => open(slice).map_err(error)?,
        };
        let stored = pixels.frame(slice).map_err(error)?;
        self.0 = Some((path.clone(), pixels));
        Ok(stored)
    }
}

/// The stored values of pixels.
fn values(pixels: &[u8], slice: &Slice) -> impl Iterator<Item = i32> {
    let bits = slice.source.bits;
    pixels.chunks_exact(bits.bytes()).map(move |pixel| value(pixel, bits))
}

/// The values of pixels with slope and intercept applied.
pub(super) fn real(pixels: &[u8], slice: &Slice) -> impl Iterator<Item = f32> {
    let ((slope, intercept), bits) = (slice.rescale, slice.source.bits);
    let number = move |pixel: &[u8]| match *pixel {
        [a, b, c, d] => f64::from(f32::from_ne_bytes([a, b, c, d])),
        _ => f64::from(value(pixel, bits)),
    };
    pixels.chunks_exact(bits.bytes()).map(move |pixel| (number(pixel) * slope + intercept) as f32)
}

/// The stored value of a pixel; bits that are not used may hold anything.
fn value(pixel: &[u8], bits: Bits) -> i32 {
    let raw = match *pixel {
        [low] => u32::from(low),
        [low, high, ..] => u32::from(u16::from_ne_bytes([low, high])),
        [] => 0,
    };
    let unused = u32::BITS - bits.stored;
    match bits.is_signed {
        true => (raw << unused) as i32 >> unused,
        false => (raw << unused >> unused) as i32,
    }
}

fn open(slice: &Slice) -> Result<Pixels, String> {
    if let Some(start) = slice.source.pixels_at.filter(|_| cfg!(target_endian = "little")) {
        let file = File::open(&slice.source.path).map_err(|error| error.to_string())?;
        return Ok(Pixels::InFile(file, start));
    }
    let object = OpenFileOptions::new()
        .read_until(BEHIND_PIXELS)
        .open_file(&slice.source.path)
        .map_err(|error| one_line(&error))?;
    let tag = if slice.source.bits.is_float() { tags::FLOAT_PIXEL_DATA } else { tags::PIXEL_DATA };
    let element = object.get(tag).ok_or("no pixel data")?;
    if slice.source.syntax == Syntax::Native {
        let bytes = element.to_bytes().map_err(|error| one_line(&error))?;
        return Ok(Pixels::Native(bytes.into_owned()));
    }
    let fragments = element.fragments().ok_or("its pixel data are not encapsulated")?;
    if slice.source.syntax == Syntax::Jpeg2000 {
        let fragments: Vec<&[u8]> = fragments.iter().map(|fragment| &fragment[..]).collect();
        check_code_streams(&fragments, slice)?;
    }
    Ok(Pixels::Encapsulated(Box::new(object)))
}

/// The decoder trusts that images have the size that the file says. So each frame must begin with a header that says the
/// same: only the fragments of a single frame may be several (PS3.5 A.4).
fn check_code_streams(fragments: &[&[u8]], slice: &Slice) -> Result<(), String> {
    let size = [slice.source.columns as u32, slice.source.rows as u32];
    let frames = slice.source.frames;
    if fragments.len() != frames && frames > 1 {
        return Err(format!("{frames} JPEG 2000 frames in {} fragments", fragments.len()));
    } else if fragments.iter().take(frames).any(|fragment| !fragment.starts_with(&CODE_STREAM)) {
        return Err("its pixels are no JPEG 2000 code streams".into());
    }
    for stream in fragments.iter().take(frames) {
        let long = |at: usize| stream.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let side = |axis: usize| Some(long(8 + 4 * axis)?.wrapping_sub(long(16 + 4 * axis)?));
        let components = stream.get(40..42).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let [columns, rows] = [side(0).unwrap_or(0), side(1).unwrap_or(0)];
        if [columns, rows] != size || components != Some(1) {
            return Err(format!(
                "its JPEG 2000 image has {rows} × {columns} pixels, the file says {} × {}",
                size[1], size[0]
            ));
        }
    }
    Ok(())
}

impl Pixels {
    /// The bytes of a frame.
    fn frame(&self, slice: &Slice) -> Result<Vec<u8>, String> {
        let source = &slice.source;
        let length = source.rows * source.columns * source.bits.bytes();
        let start = slice.frame * length;
        let frame = match self {
            Self::InFile(file, at) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, at + start as u64).map_err(|error| error.to_string())?;
                bytes
            }
            Self::Native(bytes) => bytes.get(start..start + length).unwrap_or_default().to_vec(),
            Self::Encapsulated(object) => decode(object, slice.frame, &source.path)?,
        };
        match frame.len() {
            found if found == length => Ok(frame),
            found => Err(format!("frame {} has {found} bytes instead of {length}", slice.frame + 1)),
        }
    }
}

fn decode(object: &DefaultDicomObject, frame: usize, path: &Path) -> Result<Vec<u8>, String> {
    let decoded = catch_unwind(AssertUnwindSafe(|| object.decode_pixel_data_frame(frame as u32)));
    match decoded {
        Ok(Ok(pixels)) => Ok(pixels.into_data()),
        Ok(Err(error)) => Err(format!("frame {}: {}", frame + 1, one_line(&error))),
        Err(_) => Err(format!("frame {}: the decoder failed in {}", frame + 1, path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::Placement;

    /// The beginning of a code stream of an image.
    fn code_stream(columns: u32, rows: u32) -> Vec<u8> {
        let mut stream = CODE_STREAM.to_vec();
        stream.extend([0, 41, 0, 0]);
        [columns, rows, 0, 0].iter().for_each(|side| stream.extend(side.to_be_bytes()));
        stream.resize(40, 0);
        stream.extend([0, 1]);
        stream
    }

    #[test]
    fn the_size_of_a_jpeg_2000_image_is_checked_however_it_is_cut() {
        let slice = Placement { rows: 2, columns: 3, ..Placement::default() }.slice(0);
        let check = |fragments: &[&[u8]]| check_code_streams(fragments, &slice);
        let right = code_stream(3, 2);
        assert_eq!(check(&[&right]), Ok(()));
        assert_eq!(check(&[&right, b"more of it"]), Ok(()));
        let wrong = code_stream(3000, 2000);
        assert!(check(&[&wrong]).unwrap_err().contains("2000 × 3000 pixels, the file says 2 × 3"));
        let (start, end) = wrong.split_at(2);
        assert!(check(&[start, end]).unwrap_err().contains("no JPEG 2000"));
        assert!(check(&[b"\0\0\0\x0cjP  ", &right]).unwrap_err().contains("no JPEG 2000"));
    }
}
