//! Transfer syntaxes: how the pixels of a file are encoded, and which encodings are read.

use dicom_dictionary_std::uids;

/// Explicit VR Big Endian: retired, but still found.
const EXPLICIT_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// An encoding that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// Pixels as they are. They may be big-endian in the file.
    Native,
    /// Run lengths, or a lossless JPEG that holds its own size.
    Encapsulated,
    /// A lossy JPEG, of which only images of 8 bits are read.
    LossyJpeg,
    /// JPEG 2000 and its high-throughput variant.
    Jpeg2000,
}

/// How the data set is encoded (PS3.5 A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pub is_implicit: bool,
    pub is_big_endian: bool,
}

/// UIDs of the encodings that are read.
pub const TRANSFER_SYNTAXES: [&str; 13] = [
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    uids::RLE_LOSSLESS,
    uids::JPEG_BASELINE8_BIT,
    uids::JPEG_EXTENDED12_BIT,
    uids::JPEG_LOSSLESS,
    uids::JPEG_LOSSLESS_SV1,
    uids::JPEG2000_LOSSLESS,
    uids::JPEG2000,
    uids::HTJ2K_LOSSLESS,
    uids::HTJ2K_LOSSLESS_RPCL,
    uids::HTJ2K,
];

/// Names of encodings that are not read.
const REFUSED: [(&str, &str); 9] = [
    (uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "Deflated Explicit VR Little Endian"),
    (uids::JPEGLS_LOSSLESS, "JPEG-LS Lossless"),
    (uids::JPEGLS_NEAR_LOSSLESS, "JPEG-LS Near-Lossless"),
    (uids::JPEG2000MC_LOSSLESS, "JPEG 2000 Part 2 Lossless"),
    (uids::JPEG2000MC, "JPEG 2000 Part 2"),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
    ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    ("1.2.840.10008.1.2.4.112", "JPEG XL"),
];

/// Whether pixels are not compressed in this transfer syntax, so that a data set can be written in another such one.
pub fn is_native(uid: &str) -> bool {
    Syntax::of_uid(uid) == Ok(Syntax::Native)
}

impl Syntax {
    /// The encoding with this UID.
    ///
    /// # Errors
    /// Names an encoding that is not read.
    pub fn of_uid(uid: &str) -> Result<Self, String> {
        match uid {
            uids::IMPLICIT_VR_LITTLE_ENDIAN | uids::EXPLICIT_VR_LITTLE_ENDIAN | EXPLICIT_BIG_ENDIAN => {
                Ok(Self::Native)
            }
            uids::RLE_LOSSLESS | uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => Ok(Self::Encapsulated),
            uids::JPEG_BASELINE8_BIT | uids::JPEG_EXTENDED12_BIT => Ok(Self::LossyJpeg),
            uids::JPEG2000_LOSSLESS
            | uids::JPEG2000
            | uids::HTJ2K_LOSSLESS
            | uids::HTJ2K_LOSSLESS_RPCL
            | uids::HTJ2K => Ok(Self::Jpeg2000),
            other => {
                let named = REFUSED.iter().find(|(uid, _)| *uid == other);
                let name = named.map_or("unknown here", |(_, name)| name);
                let other: String = other.chars().filter(char::is_ascii_graphic).take(64).collect();
                Err(format!(
                    "transfer syntax {other} ({name}) is not supported; convert the file, for example with gdcmconv --raw"
                ))
            }
        }
    }
}

impl Encoding {
    pub fn of_uid(uid: &str) -> Self {
        Self {
            is_implicit: uid == uids::IMPLICIT_VR_LITTLE_ENDIAN,
            is_big_endian: uid == EXPLICIT_BIG_ENDIAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_of_the_list_are_read() {
        assert!(TRANSFER_SYNTAXES.iter().all(|uid| Syntax::of_uid(uid).is_ok()));
    }

    #[test]
    fn refused_encodings_are_named() {
        assert_eq!(Syntax::of_uid("1.2.840.10008.1.2.1"), Ok(Syntax::Native));
        assert_eq!(Syntax::of_uid("1.2.840.10008.1.2.5"), Ok(Syntax::Encapsulated));
        assert_eq!(Syntax::of_uid("1.2.840.10008.1.2.4.201"), Ok(Syntax::Jpeg2000));
        let error = Syntax::of_uid("1.2.840.10008.1.2.4.80").unwrap_err();
        assert!(error.contains("1.2.840.10008.1.2.4.80 (JPEG-LS Lossless)"), "{error}");
        let error = Syntax::of_uid("1.2\n3").unwrap_err();
        assert!(error.contains("1.23 (unknown here)"), "{error}");
    }
}
