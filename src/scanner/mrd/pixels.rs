//! Pixels of MRD images, and the values that are kept of them.

use super::header::Layout;
use crate::dicom::Stored;

/// Type of the pixels (`data_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelType {
    U16,
    I16,
    U32,
    I32,
    F32,
    F64,
    /// Two float32.
    C64,
    /// Two float64.
    C128,
}

impl PixelType {
    /// The type with this number.
    pub fn of(data_type: u16) -> Option<Self> {
        [Self::U16, Self::I16, Self::U32, Self::I32, Self::F32, Self::F64, Self::C64, Self::C128]
            .into_iter()
            .find(|kind| kind.number() == data_type)
    }

    /// The number of this type.
    pub fn number(self) -> u16 {
        match self {
            Self::U16 => 1,
            Self::I16 => 2,
            Self::U32 => 3,
            Self::I32 => 4,
            Self::F32 => 5,
            Self::F64 => 6,
            Self::C64 => 7,
            Self::C128 => 8,
        }
    }

    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::F64 | Self::C64 => 8,
            Self::C128 => 16,
        }
    }

    /// How the values are kept: integers of 16 bits as they are, all others as float32, which is what the network takes.
    pub fn stored(self) -> Stored {
        match self {
            Self::U16 => Stored::U16,
            Self::I16 => Stored::I16,
            _ => Stored::F32,
        }
    }

    /// Whole pixels as they are kept, little-endian. A complex pixel becomes its magnitude.
    pub fn convert(self, pixels: &[u8]) -> Vec<u8> {
        let each = |value: fn(&[u8]) -> f32| {
            pixels.chunks_exact(self.bytes()).flat_map(|pixel| value(pixel).to_le_bytes()).collect()
        };
        match self {
            Self::U16 | Self::I16 | Self::F32 => pixels.to_vec(),
            Self::U32 => each(|pixel| u32::from_le_bytes(array(pixel)) as f32),
            Self::I32 => each(|pixel| i32::from_le_bytes(array(pixel)) as f32),
            Self::F64 => each(|pixel| f64::from_le_bytes(array(pixel)) as f32),
            Self::C64 => each(|pixel| {
                let [real, imaginary] = [0, 4].map(|at| f64::from(f32::from_le_bytes(array(&pixel[at..]))));
                real.hypot(imaginary) as f32
            }),
            Self::C128 => each(|pixel| {
                let [real, imaginary] = [0, 8].map(|at| f64::from_le_bytes(array(&pixel[at..])));
                real.hypot(imaginary) as f32
            }),
        }
    }
}

/// The first bytes; zeros behind the end.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

impl Layout {
    /// The pixels of an image's slices, as they are kept of `bytes` of the message; for tests and tools.
    pub fn values(&self, bytes: &[u8]) -> Vec<f32> {
        let converted = self.pixel.convert(bytes);
        match self.pixel.stored() {
            Stored::U16 => {
                converted.chunks_exact(2).map(|b| f32::from(u16::from_le_bytes(array(b)))).collect()
            }
            Stored::I16 => {
                converted.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes(array(b)))).collect()
            }
            Stored::F32 => converted.chunks_exact(4).map(|b| f32::from_le_bytes(array(b))).collect(),
        }
    }
}
