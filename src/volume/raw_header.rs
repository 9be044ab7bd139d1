//! The bytes of a NIfTI header, read and written field by field, in both versions of the format and both byte
//! orders.
//!
//! Source: `nifti1.h` (NIfTI-1.1, 348 bytes) and `nifti2.h` (540 bytes: the same fields, wider and in another
//! order). The bytes are kept, so that a label map keeps every field that it does not change. The `nifti` crate
//! knows only version 1.

use std::path::Path;

use super::error::VolumeError;

/// Version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    /// Number of bytes of a header; a multiple of 16 together with the four bytes of the extender.
    pub(super) const fn header_bytes(self) -> usize {
        match self {
            Self::One => 348,
            Self::Two => 540,
        }
    }

    /// The version of a header that starts with this size, and whether it is little-endian.
    pub(super) fn of_size(size: [u8; 4]) -> Option<(Self, bool)> {
        [Self::One, Self::Two].into_iter().find_map(|version| {
            let bytes = version.header_bytes() as i32;
            let is_little_endian = size == bytes.to_le_bytes();
            (is_little_endian || size == bytes.to_be_bytes()).then_some((version, is_little_endian))
        })
    }
}

/// The fields that are read or changed, with their names in `nifti1.h`. Fields of several numbers have an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Dim(usize),
    IntentP(usize),
    IntentCode,
    Datatype,
    Bitpix,
    SliceStart,
    Pixdim(usize),
    VoxOffset,
    SclSlope,
    SclInter,
    SliceEnd,
    SliceCode,
    XyztUnits,
    CalMax,
    CalMin,
    SliceDuration,
    Toffset,
    AuxFile,
    QformCode,
    SformCode,
    /// `quatern_b`, `_c`, `_d`.
    Quatern(usize),
    /// `qoffset_x`, `_y`, `_z`.
    Qoffset(usize),
    /// Row and column of `srow_x`, `_y`, `_z`.
    Srow(usize, usize),
    IntentName,
    Magic,
}

/// The type of a field's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I16,
    I32,
    I64,
    F32,
    F64,
    Text(usize),
}

impl Field {
    /// Offset and type of the field.
    fn place(self, version: Version) -> (usize, Kind) {
        match version {
            Version::One => self.place_in_one(),
            Version::Two => self.place_in_two(),
        }
    }

    fn place_in_one(self) -> (usize, Kind) {
        match self {
            Self::Dim(axis) => (40 + 2 * axis, Kind::I16),
            Self::IntentP(index) => (56 + 4 * index, Kind::F32),
            Self::IntentCode => (68, Kind::I16),
            Self::Datatype => (70, Kind::I16),
            Self::Bitpix => (72, Kind::I16),
            Self::SliceStart => (74, Kind::I16),
            Self::Pixdim(axis) => (76 + 4 * axis, Kind::F32),
            Self::VoxOffset => (108, Kind::F32),
            Self::SclSlope => (112, Kind::F32),
            Self::SclInter => (116, Kind::F32),
            Self::SliceEnd => (120, Kind::I16),
            Self::SliceCode => (122, Kind::U8),
            Self::XyztUnits => (123, Kind::U8),
            Self::CalMax => (124, Kind::F32),
            Self::CalMin => (128, Kind::F32),
            Self::SliceDuration => (132, Kind::F32),
            Self::Toffset => (136, Kind::F32),
            Self::AuxFile => (228, Kind::Text(24)),
            Self::QformCode => (252, Kind::I16),
            Self::SformCode => (254, Kind::I16),
            Self::Quatern(index) => (256 + 4 * index, Kind::F32),
            Self::Qoffset(axis) => (268 + 4 * axis, Kind::F32),
            Self::Srow(row, column) => (280 + 16 * row + 4 * column, Kind::F32),
            Self::IntentName => (328, Kind::Text(16)),
            Self::Magic => (344, Kind::Text(4)),
        }
    }

    fn place_in_two(self) -> (usize, Kind) {
        match self {
            Self::Magic => (4, Kind::Text(8)),
            Self::Datatype => (12, Kind::I16),
            Self::Bitpix => (14, Kind::I16),
            Self::Dim(axis) => (16 + 8 * axis, Kind::I64),
            Self::IntentP(index) => (80 + 8 * index, Kind::F64),
            Self::Pixdim(axis) => (104 + 8 * axis, Kind::F64),
            Self::VoxOffset => (168, Kind::I64),
            Self::SclSlope => (176, Kind::F64),
            Self::SclInter => (184, Kind::F64),
            Self::CalMax => (192, Kind::F64),
            Self::CalMin => (200, Kind::F64),
            Self::SliceDuration => (208, Kind::F64),
            Self::Toffset => (216, Kind::F64),
            Self::SliceStart => (224, Kind::I64),
            Self::SliceEnd => (232, Kind::I64),
            Self::AuxFile => (320, Kind::Text(24)),
            Self::QformCode => (344, Kind::I32),
            Self::SformCode => (348, Kind::I32),
            Self::Quatern(index) => (352 + 8 * index, Kind::F64),
            Self::Qoffset(axis) => (376 + 8 * axis, Kind::F64),
            Self::Srow(row, column) => (400 + 32 * row + 8 * column, Kind::F64),
            Self::SliceCode => (496, Kind::I32),
            Self::XyztUnits => (500, Kind::I32),
            Self::IntentCode => (504, Kind::I32),
            Self::IntentName => (508, Kind::Text(16)),
        }
    }
}

/// A header in its stored form.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawHeader {
    pub(super) bytes: Vec<u8>,
    pub(super) version: Version,
    pub(super) is_little_endian: bool,
    /// Whether the voxels are in a separate file (`.hdr` and `.img`).
    pub(super) is_pair: bool,
}

impl RawHeader {
    /// Checks size and magic of a header of `version`.
    pub(super) fn new(
        bytes: Vec<u8>,
        version: Version,
        is_little_endian: bool,
        path: &Path,
    ) -> Result<Self, VolumeError> {
        let mut header = Self { bytes, version, is_little_endian, is_pair: false };
        let not_nifti = |reason| Err(VolumeError::NotNifti { path: path.into(), reason });
        if header.bytes.len() != version.header_bytes() {
            return not_nifti("shorter than a header");
        }
        header.is_pair = match (version, header.text(Field::Magic)) {
            (Version::One, b"n+1\0") | (Version::Two, b"n+2\0\r\n\x1a\n") => false,
            (Version::One, b"ni1\0") | (Version::Two, b"ni2\0\r\n\x1a\n") => true,
            (Version::One, [0, 0, 0, 0]) => {
                return not_nifti("ANALYZE 7.5, which does not say which side is left: convert it to NIfTI");
            }
            _ => return not_nifti("wrong magic"),
        };
        match header.integer(Field::Dim(0)) {
            1..=7 => Ok(header),
            rank => Err(VolumeError::Header { path: path.into(), reason: format!("{rank} dimensions") }),
        }
    }

    /// An integer field, or the integer part of a number.
    pub(super) fn integer(&self, field: Field) -> i64 {
        let (at, kind) = field.place(self.version);
        match kind {
            Kind::U8 => i64::from(self.bytes[at]),
            Kind::I16 => i64::from(i16::from_le_bytes(self.number(at))),
            Kind::I32 => i64::from(i32::from_le_bytes(self.number(at))),
            Kind::I64 => i64::from_le_bytes(self.number(at)),
            Kind::F32 | Kind::F64 => self.real(field) as i64,
            Kind::Text(_) => 0,
        }
    }

    /// A numeric field.
    pub(super) fn real(&self, field: Field) -> f64 {
        let (at, kind) = field.place(self.version);
        match kind {
            Kind::F32 => f64::from(f32::from_le_bytes(self.number(at))),
            Kind::F64 => f64::from_le_bytes(self.number(at)),
            _ => self.integer(field) as f64,
        }
    }

    /// Sets a number; integers are limited to the range of the field.
    pub(super) fn set(&mut self, field: Field, value: f64) {
        let (at, kind) = field.place(self.version);
        match kind {
            Kind::U8 => self.bytes[at] = value as u8,
            Kind::I16 => self.put(at, (value as i16).to_le_bytes()),
            Kind::I32 => self.put(at, (value as i32).to_le_bytes()),
            Kind::I64 => self.put(at, (value as i64).to_le_bytes()),
            Kind::F32 => self.put(at, (value as f32).to_le_bytes()),
            Kind::F64 => self.put(at, value.to_le_bytes()),
            Kind::Text(_) => {}
        }
    }

    /// The bytes of a text field.
    pub(super) fn text(&self, field: Field) -> &[u8] {
        match field.place(self.version) {
            (at, Kind::Text(length)) => &self.bytes[at..at + length],
            _ => &[],
        }
    }

    /// Sets a text; the rest of the field is filled with zeros.
    pub(super) fn set_text(&mut self, field: Field, text: &[u8]) {
        if let (at, Kind::Text(length)) = field.place(self.version) {
            let kept = text.len().min(length);
            self.bytes[at..at + length].fill(0);
            self.bytes[at..at + kept].copy_from_slice(&text[..kept]);
        }
    }

    /// The magic of a single file.
    pub(super) fn single_file_magic(&self) -> &'static [u8] {
        match self.version {
            Version::One => b"n+1\0",
            Version::Two => b"n+2\0\r\n\x1a\n",
        }
    }

    /// The little-endian bytes of a number.
    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut number = [0; N];
        number.copy_from_slice(&self.bytes[at..at + N]);
        if !self.is_little_endian {
            number.reverse();
        }
        number
    }

    fn put<const N: usize>(&mut self, at: usize, mut number: [u8; N]) {
        if !self.is_little_endian {
            number.reverse();
        }
        self.bytes[at..at + N].copy_from_slice(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [Field; 13] = [
        Field::Dim(7),
        Field::IntentP(2),
        Field::IntentCode,
        Field::Pixdim(7),
        Field::VoxOffset,
        Field::SliceCode,
        Field::Toffset,
        Field::QformCode,
        Field::Quatern(2),
        Field::Qoffset(2),
        Field::Srow(2, 3),
        Field::XyztUnits,
        Field::CalMin,
    ];

    #[test]
    fn fields_are_read_as_written_and_do_not_overlap() {
        for version in [Version::One, Version::Two] {
            for is_little_endian in [true, false] {
                let bytes = vec![0; version.header_bytes()];
                let mut header = RawHeader { bytes, version, is_little_endian, is_pair: false };
                for (value, field) in (1..).zip(FIELDS) {
                    header.set(field, f64::from(value));
                }
                header.set_text(Field::IntentName, b"a name that is too long for it");
                for (value, field) in (1..).zip(FIELDS) {
                    assert_eq!(header.real(field), f64::from(value), "{field:?} {version:?}");
                    assert_eq!(header.integer(field), i64::from(value), "{field:?} {version:?}");
                }
                assert_eq!(header.text(Field::IntentName), b"a name that is t");
            }
        }
    }
}
