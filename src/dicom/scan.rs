//! A look at the element headers of a file before it is parsed: dicom-object allocates the lengths that a file
//! announces, and descends into sequences without a limit. Values are skipped, so this costs little.
//!
//! Source: PS3.5, sections 7.1 (elements), 7.5 (sequences), A.4 (encapsulated pixel data), and PS3.10 7.1 (file meta
//! information).

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::syntax::{Encoding, Syntax};
use super::vr::{has_short_length, known, unit_bytes};

/// Sequences within sequences.
const MOST_LEVELS: usize = 32;
const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);
/// Length of the file meta information behind this element.
const GROUP_LENGTH: Tag = Tag(0x0002, 0x0000);
const CLASS: Tag = Tag(0x0002, 0x0002);
const INSTANCE: Tag = Tag(0x0002, 0x0003);
const TRANSFER_SYNTAX: Tag = Tag(0x0002, 0x0010);
const PIXEL_DATA: Tag = Tag(0x7fe0, 0x0010);
/// Pixels of 32 bits (PS3.3 C.7.6.24).
const FLOAT_PIXEL_DATA: Tag = Tag(0x7fe0, 0x0008);
/// High byte of the groups of overlays, and the element with their bits.
const OVERLAYS: u16 = 0x60;
const OVERLAY_DATA: u16 = 0x3000;
/// Longest text of an UID.
const LONGEST_UID: u32 = 64;
/// Preamble and prefix.
pub(super) const PREFIX_BYTES: u64 = 132;

/// What the headers say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// UID of the transfer syntax.
    pub transfer_syntax: String,
    /// Where the pixels lie in the file, if they are not encapsulated.
    pub pixels: Option<Range<u64>>,
    /// Whether the pixels are float32.
    pub is_float: bool,
}

/// What the file meta information says (PS3.10 7.1); UIDs that it lacks are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileMeta {
    pub class_uid: String,
    pub instance_uid: String,
    pub transfer_syntax: String,
    /// Where the data set begins in the file.
    pub data_set_at: u64,
}

/// An item, or a sequence.
struct Level {
    /// Where it ends; `None` if a delimiter ends it.
    end: Option<u64>,
    is_implicit: bool,
    /// The items of encapsulated pixel data are no data sets.
    is_pixels: bool,
}

struct Element {
    tag: Tag,
    /// Two letters; zeros in implicit encoding.
    vr: [u8; 2],
    length: u32,
}

/// Walks over the headers of a file of `length` bytes up to the end of its pixel data.
///
/// # Errors
/// Says what is wrong.
pub(super) fn scan<S: Read + Seek>(source: S, length: u64) -> Result<Scanned, String> {
    let mut walk = Walk::new(source, length)?;
    let transfer_syntax = walk.file_meta()?.transfer_syntax;
    let Ok(syntax) = Syntax::of_uid(&transfer_syntax) else {
        // refused, and may be compressed as a whole
        return Ok(Scanned { transfer_syntax, pixels: None, is_float: false });
    };
    let encoding = Encoding::of_uid(&transfer_syntax);
    let (tag, pixels) = walk.data_set(encoding, syntax == Syntax::Native)?.unzip();
    Ok(Scanned { transfer_syntax, pixels, is_float: tag == Some(FLOAT_PIXEL_DATA) })
}

/// Reads the file meta information of a file of `length` bytes.
///
/// # Errors
/// Says what is wrong.
pub(super) fn file_meta<S: Read + Seek>(source: S, length: u64) -> Result<FileMeta, String> {
    Walk::new(source, length)?.file_meta()
}

struct Walk<S> {
    source: BufReader<S>,
    at: u64,
    length: u64,
}

impl<S: Read + Seek> Walk<S> {
    /// After the preamble.
    fn new(source: S, length: u64) -> Result<Self, String> {
        let mut walk = Self { source: BufReader::new(source), at: 0, length };
        walk.skip(PREFIX_BYTES)?;
        Ok(walk)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|_| "it ends within an element".to_owned())?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        if bytes > self.length.saturating_sub(self.at) {
            return Err(format!("truncated: an element announces {bytes} bytes, but the file ends before"));
        }
        self.at += bytes;
        self.source.seek_relative(bytes as i64).map_err(|error| error.to_string())
    }

    fn number(&mut self, is_big_endian: bool) -> Result<u16, String> {
        let bytes = self.bytes()?;
        Ok(if is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&mut self, is_big_endian: bool) -> Result<u32, String> {
        let bytes = self.bytes()?;
        Ok(if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn element(&mut self, is_implicit: bool, is_big_endian: bool) -> Result<Element, String> {
        let tag = Tag(self.number(is_big_endian)?, self.number(is_big_endian)?);
        if is_implicit || tag.0 == ITEM.0 {
            return Ok(Element { tag, vr: [0; 2], length: self.long(is_big_endian)? });
        }
        let vr: [u8; 2] = self.bytes()?;
        if !vr.iter().all(u8::is_ascii_uppercase) {
            return Err(format!("element {tag} has no valid value representation"));
        }
        let is_short = has_short_length(vr);
        let vr = known(vr);
        let length = match is_short {
            true => u32::from(self.number(is_big_endian)?),
            false => {
                self.number(is_big_endian)?;
                self.long(is_big_endian)?
            }
        };
        Ok(Element { tag, vr, length })
    }

    /// Reads group 2, which is explicit little-endian.
    fn file_meta(&mut self) -> Result<FileMeta, String> {
        let mut meta = FileMeta::default();
        let mut announced = None;
        loop {
            let start = self.at;
            let mut group = [0; 2];
            match self.source.read(&mut group) {
                Ok(0) => break,
                Ok(_) => self.rewind(start)?,
                Err(error) => return Err(error.to_string()),
            }
            if u16::from_le_bytes(group) != TRANSFER_SYNTAX.0 {
                break;
            }
            let element = self.element(false, false)?;
            let uid = match element.tag {
                GROUP_LENGTH if element.length == 4 => {
                    let length = self.long(false)?;
                    announced = Some(self.at + u64::from(length));
                    continue;
                }
                CLASS => &mut meta.class_uid,
                INSTANCE => &mut meta.instance_uid,
                TRANSFER_SYNTAX => &mut meta.transfer_syntax,
                _ => {
                    self.skip(u64::from(element.length))?;
                    continue;
                }
            };
            match element.length <= LONGEST_UID {
                true => *uid = self.uid(element.length as usize)?,
                false => self.skip(u64::from(element.length))?,
            }
        }
        if meta.transfer_syntax.is_empty() {
            return Err("no transfer syntax".into());
        }
        // The parser believes the length.
        if announced.is_some_and(|end| end != self.at) {
            return Err("its meta information is longer or shorter than it says".into());
        }
        meta.data_set_at = self.at;
        Ok(meta)
    }

    fn uid(&mut self, length: usize) -> Result<String, String> {
        let mut text = vec![0; length];
        self.source.read_exact(&mut text).map_err(|_| "it ends within an element".to_owned())?;
        self.at += length as u64;
        Ok(String::from_utf8_lossy(&text).trim_matches(['\0', ' ']).to_owned())
    }

    fn rewind(&mut self, to: u64) -> Result<(), String> {
        self.at = to;
        self.source.seek(SeekFrom::Start(to)).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Which native pixel data there are, and where they lie. Files with native pixels are not parsed beyond them, others to
    /// their end.
    fn data_set(
        &mut self,
        encoding: Encoding,
        has_native_pixels: bool,
    ) -> Result<Option<(Tag, Range<u64>)>, String> {
        let mut levels: Vec<Level> = Vec::new();
        while self.at < self.length {
            while let Some(end) = levels.last().and_then(|level| level.end).filter(|&end| self.at >= end) {
                if self.at > end {
                    return Err("an element reaches beyond its sequence".into());
                }
                levels.pop();
            }
            if self.at >= self.length {
                break;
            }
            let is_implicit = levels.last().map_or(encoding.is_implicit, |level| level.is_implicit);
            let is_pixels = levels.last().is_some_and(|level| level.is_pixels);
            let element = self.element(is_implicit, encoding.is_big_endian)?;
            let is_native = [PIXEL_DATA, FLOAT_PIXEL_DATA].contains(&element.tag);
            if levels.is_empty() && is_native && element.length != UNDEFINED {
                if !has_native_pixels {
                    return Err("its pixels are not encapsulated, as its transfer syntax says".into());
                }
                let start = self.at;
                self.skip(u64::from(element.length))?;
                return Ok(Some((element.tag, start..self.at)));
            }
            match element.tag {
                SEQUENCE_END if is_pixels && has_native_pixels => return Ok(None),
                ITEM_END | SEQUENCE_END => {
                    levels.pop().ok_or("a delimiter without a sequence")?;
                }
                ITEM if is_pixels => self.skip(u64::from(element.length))?,
                _ => match self.level(&element, is_implicit, levels.is_empty())? {
                    Some(level) if levels.len() < MOST_LEVELS => levels.push(level),
                    Some(_) => return Err(format!("more than {MOST_LEVELS} sequences within each other")),
                    None => self.skip_value(&element, is_implicit)?,
                },
            }
        }
        match levels.is_empty() {
            true => Ok(None),
            false => Err("truncated: it ends within a sequence".into()),
        }
    }

    /// Skips a value. Of a value that is no whole number of its units the parser would leave the rest, and take it for the
    /// next element.
    fn skip_value(&mut self, element: &Element, is_implicit: bool) -> Result<(), String> {
        let &Element { tag, vr, length } = element;
        let vr = match is_implicit {
            false => VR::from_binary(vr),
            true if tag.0 >> 8 == OVERLAYS && tag.1 == OVERLAY_DATA => Some(VR::OW),
            true => StandardDataDictionary.by_tag(tag).map(|entry| entry.vr().relaxed()),
        };
        match vr.map(|vr| (vr, unit_bytes(vr))) {
            Some((vr, bytes)) if length % bytes != 0 => {
                Err(format!("element {tag} has {length} bytes, but values of {vr} have {bytes} each"))
            }
            _ => self.skip(u64::from(length)),
        }
    }

    /// The item or sequence that this element begins.
    fn level(&self, element: &Element, is_implicit: bool, is_top: bool) -> Result<Option<Level>, String> {
        let Element { tag, vr, length } = *element;
        let is_sequence_by_tag =
            || StandardDataDictionary.by_tag(tag).is_some_and(|entry| entry.vr() == VirtualVr::Exact(VR::SQ));
        let is_sequence =
            tag == ITEM || &vr == b"SQ" || length == UNDEFINED || (is_implicit && is_sequence_by_tag());
        if !is_sequence {
            return Ok(None);
        }
        let left = self.length - self.at;
        if length != UNDEFINED && u64::from(length) > left {
            return Err(format!("truncated: a sequence announces {length} bytes, but the file ends before"));
        }
        let end = (length != UNDEFINED).then(|| self.at + u64::from(length));
        let is_implicit = is_implicit || &vr == b"UN";
        Ok(Some(Level { end, is_implicit, is_pixels: is_top && tag == PIXEL_DATA }))
    }
}

#[cfg(test)]
mod tests;
