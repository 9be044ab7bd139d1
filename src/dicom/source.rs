//! What the images of a DICOM file have in common, from the attributes before its pixels.

use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::groups::Groups;
use super::syntax::Syntax;

/// Longest side of an image: the header of a NIfTI label map counts no further.
const LONGEST_SIDE: usize = 1 << 15;
/// Most pixels of an image.
const MOST_PIXELS: usize = 1 << 26;
/// Most frames of a file.
const MOST_FRAMES: usize = 1 << 16;

/// A file with images.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    pub path: PathBuf,
    pub syntax: Syntax,
    pub rows: usize,
    pub columns: usize,
    pub frames: usize,
    pub bits: Bits,
    pub series: String,
    pub series_number: Option<i64>,
    /// Where the pixels begin in the file, if they can be used as they are there: neither encapsulated nor big-endian.
    pub pixels_at: Option<u64>,
}

/// How a pixel is stored: an integer of 8 or 16 bits, or float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bits {
    /// 8 or 16; 32 for float32.
    pub allocated: u32,
    pub stored: u32,
    pub is_signed: bool,
}

impl Bits {
    /// Reads the attributes.
    ///
    /// # Errors
    /// Says which numbers are not supported.
    fn read(file: &InMemDicomObject, is_float: bool) -> Result<Self, String> {
        let number = |tag: Tag| file.get(tag).and_then(|element| element.to_int::<u32>().ok());
        let allocated = number(tags::BITS_ALLOCATED).unwrap_or(0);
        let stored = number(tags::BITS_STORED).unwrap_or(allocated);
        let high = number(tags::HIGH_BIT).unwrap_or(stored.saturating_sub(1));
        let is_known = if is_float { allocated == u32::BITS } else { matches!(allocated, 8 | 16) };
        if !is_known || stored == 0 || stored > allocated || high != stored - 1 {
            return Err(format!(
                "{allocated} bits per pixel, {stored} stored, high bit {high}: not supported"
            ));
        }
        Ok(Self { allocated, stored, is_signed: number(tags::PIXEL_REPRESENTATION) == Some(1) })
    }

    pub fn bytes(self) -> usize {
        self.allocated as usize / 8
    }

    pub fn is_float(self) -> bool {
        self.allocated == u32::BITS
    }
}

impl Source {
    /// Reads the attributes; images that cannot be used are refused. `is_float` says whether the file has Float Pixel Data.
    ///
    /// # Errors
    /// Says which attribute is missing or wrong.
    pub fn read(
        path: &Path,
        file: &InMemDicomObject,
        syntax: Syntax,
        is_float: bool,
    ) -> Result<Self, String> {
        let number = |tag: Tag| file.get(tag).and_then(|element| element.to_int::<u32>().ok());
        let size = |tag| number(tag).unwrap_or(0) as usize;
        let (rows, columns) = (size(tags::ROWS), size(tags::COLUMNS));
        if rows == 0 || columns == 0 || rows.max(columns) >= LONGEST_SIDE || rows * columns > MOST_PIXELS {
            return Err(format!("images of {rows} × {columns} pixels are not supported"));
        }
        let frames = number(tags::NUMBER_OF_FRAMES).unwrap_or(1) as usize;
        if frames == 0 || frames > MOST_FRAMES {
            return Err(format!("{frames} frames are not supported; 1 to {MOST_FRAMES} are"));
        }
        let groups = Groups::count(file);
        if frames > 1 && groups != Some(frames) {
            let described = groups.unwrap_or(0);
            return Err(format!(
                "{frames} frames, but functional groups (position and orientation) of {described}"
            ));
        }
        let samples = number(tags::SAMPLES_PER_PIXEL).unwrap_or(1);
        let photometric = text(file, tags::PHOTOMETRIC_INTERPRETATION);
        if samples != 1 || !(photometric == "MONOCHROME2" || photometric.is_empty()) {
            let kind = match &*photometric {
                "MONOCHROME1" => "MONOCHROME1, in which large values are dark".to_owned(),
                other => {
                    format!(
                        "{samples} values per pixel ({})",
                        other.replace(|c: char| !c.is_ascii_graphic(), "")
                    )
                }
            };
            return Err(format!("{kind}: not supported; only MONOCHROME2 is"));
        } else if file.get(tags::MODALITY_LUT_SEQUENCE).is_some() {
            return Err("its values have a table (Modality LUT), which is not supported".into());
        }
        let bits = Bits::read(file, is_float)?;
        if syntax == Syntax::LossyJpeg && bits.allocated > u8::BITS {
            return Err(format!(
                "its lossy JPEG images have {} bits, and only 8 are supported; convert the file, for example with gdcmconv --raw",
                bits.stored
            ));
        }
        Ok(Self {
            path: path.into(),
            syntax,
            rows,
            columns,
            frames,
            bits,
            series: text(file, tags::SERIES_INSTANCE_UID),
            series_number: file.get(tags::SERIES_NUMBER).and_then(|element| element.to_int().ok()),
            pixels_at: None,
        })
    }
}

/// A text; empty if there is none.
pub(super) fn text(file: &InMemDicomObject, tag: Tag) -> String {
    let text = file.get(tag).and_then(|element| element.to_str().ok());
    text.map(|text| text.trim_matches(['\0', ' ']).to_owned()).unwrap_or_default()
}

/// An error and its causes in one line.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        parts.push(cause.to_string());
        next = cause.source();
    }
    parts.dedup();
    parts.join(": ").split_whitespace().collect::<Vec<_>>().join(" ")
}
