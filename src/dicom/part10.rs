//! A file as it is sent to another program: what identifies it, and its data set as bytes (PS3.10 7).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject, OpenFileOptions};

use super::error::DicomError;
use super::instance::is_dicom;
use super::scan::{FileMeta, file_meta, scan};
use super::source::{one_line, text};
use super::syntax::is_native;

/// A DICOM file of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part10 {
    pub path: PathBuf,
    /// SOP Class UID.
    pub class_uid: String,
    /// SOP Instance UID.
    pub instance_uid: String,
    /// UID of the transfer syntax.
    pub transfer_syntax: String,
    data_set_at: u64,
    length: u64,
}

/// To which series a file belongs, and where in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct InSeries {
    /// Series Instance UID; empty if it is not known.
    pub series_uid: String,
    pub instance_number: Option<i64>,
}

impl Part10 {
    /// Reads the file meta information.
    ///
    /// # Errors
    /// [`DicomError::Io`]; [`DicomError::File`] for one that is no DICOM file, or says not what it is.
    pub fn open(path: &Path) -> Result<Self, DicomError> {
        let io = |source| DicomError::io(path, source);
        let wrong = |reason: &str| DicomError::file(path, reason);
        if !is_dicom(path).map_err(io)? {
            return Err(wrong("no DICM prefix at byte 128"));
        }
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let FileMeta { class_uid, instance_uid, transfer_syntax, data_set_at } =
            file_meta(file, length).map_err(|reason| wrong(&reason))?;
        if class_uid.is_empty() || instance_uid.is_empty() {
            return Err(wrong("its meta information lacks SOP class or instance"));
        } else if data_set_at >= length {
            return Err(wrong("no data set"));
        }
        Ok(Self { path: path.into(), class_uid, instance_uid, transfer_syntax, data_set_at, length })
    }

    /// The data set as it is in the file, and its length in bytes.
    ///
    /// # Errors
    /// [`DicomError::Io`].
    pub fn data_set(&self) -> Result<(impl Read + Send + use<>, u64), DicomError> {
        let io = |source| DicomError::io(&self.path, source);
        let mut file = File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(self.data_set_at)).map_err(io)?;
        let length = self.length - self.data_set_at;
        Ok((file.take(length), length))
    }

    /// The data set in Implicit VR Little Endian, which every receiver accepts.
    ///
    /// # Errors
    /// [`DicomError::Io`]; [`DicomError::File`] if it is compressed or damaged.
    pub fn implicit_data_set(&self) -> Result<Vec<u8>, DicomError> {
        let wrong = |reason: String| DicomError::file(&self.path, reason);
        if !is_native(&self.transfer_syntax) {
            return Err(wrong("a compressed data set cannot be sent in another transfer syntax".into()));
        }
        self.check()?;
        let file = OpenFileOptions::new()
            .open_file(&self.path)
            .map_err(|error| wrong(one_line(&error)))?
            .into_inner();
        implicit(file).map_err(wrong)
    }

    /// Its place in its series, from the attributes before those of the image.
    ///
    /// # Errors
    /// [`DicomError::Io`]; [`DicomError::File`] if the data set is damaged.
    pub fn in_series(&self) -> Result<InSeries, DicomError> {
        if self.transfer_syntax == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
            return Ok(InSeries::default());
        }
        self.check()?;
        let file = OpenFileOptions::new()
            .read_until(Tag(0x0020, 0x0014)) // after Instance Number
            .open_file(&self.path)
            .map_err(|error| DicomError::file(&self.path, one_line(&error)))?;
        Ok(InSeries {
            series_uid: text(&file, tags::SERIES_INSTANCE_UID),
            instance_number: file.get(tags::INSTANCE_NUMBER).and_then(|element| element.to_int().ok()),
        })
    }

    /// Announced lengths are those of the file.
    fn check(&self) -> Result<(), DicomError> {
        let file = File::open(&self.path).map_err(|source| DicomError::io(&self.path, source))?;
        scan(file, self.length).map(|_| ()).map_err(|reason| DicomError::file(&self.path, reason))
    }
}

/// A data set without compressed pixels in Implicit VR Little Endian.
///
/// # Errors
/// Why it cannot be written.
pub(crate) fn implicit(object: InMemDicomObject) -> Result<Vec<u8>, String> {
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::IMPLICIT_VR_LITTLE_ENDIAN);
    let object = object.with_meta(meta).map_err(|error| one_line(&error))?;
    let mut bytes = Vec::new();
    object.write_dataset(&mut bytes).map_err(|error| one_line(&error))?;
    Ok(bytes)
}
