//! Instances to send.

use std::io::{Cursor, Read};
use std::path::Path;

use dicom_object::DefaultDicomObject;

use super::error::SendError;
use crate::dicom::{DicomError, Part10, implicit, is_native};
use crate::scanner::dimse::is_uid;

/// A data set and what identifies it.
#[derive(Debug, Clone)]
pub struct Instance {
    name: String,
    class_uid: String,
    uid: String,
    transfer_syntax: String,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// Read when it is sent.
    File(Part10),
    Memory(Box<DefaultDicomObject>),
}

impl Instance {
    /// An instance in a file, of any kind. Its data set is read when it is sent.
    ///
    /// # Errors
    /// [`DicomError`] for a file that is no DICOM file.
    pub fn of_file(path: &Path) -> Result<Self, DicomError> {
        Part10::open(path).map(Self::of_part10)
    }

    /// An instance in a file that was opened before.
    pub fn of_part10(file: Part10) -> Self {
        Self {
            name: file.path.display().to_string(),
            class_uid: file.class_uid.clone(),
            uid: file.instance_uid.clone(),
            transfer_syntax: file.transfer_syntax.clone(),
            content: Content::File(file),
        }
    }

    /// An instance in memory, with its file meta information; `name` is for messages.
    pub fn of_object(name: impl Into<String>, object: DefaultDicomObject) -> Self {
        let plain = |uid: &str| uid.trim_end_matches(['\0', ' ']).to_owned();
        let meta = object.meta();
        Self {
            name: name.into(),
            class_uid: plain(meta.media_storage_sop_class_uid()),
            uid: plain(meta.media_storage_sop_instance_uid()),
            transfer_syntax: plain(meta.transfer_syntax()),
            content: Content::Memory(Box::new(object)),
        }
    }

    /// Path, or the name that was given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SOP Class UID.
    pub fn class_uid(&self) -> &str {
        &self.class_uid
    }

    /// SOP Instance UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// UID of the transfer syntax in which it is stored.
    pub fn transfer_syntax(&self) -> &str {
        &self.transfer_syntax
    }

    /// Whether it can be sent in Implicit VR Little Endian.
    pub(super) fn is_native(&self) -> bool {
        is_native(&self.transfer_syntax)
    }

    /// The data set as it is stored, and its length in bytes.
    pub(super) fn data_set(&self) -> Result<(Box<dyn Read + Send>, u64), SendError> {
        match &self.content {
            Content::File(file) => {
                let (source, length) = file.data_set()?;
                Ok((Box::new(source), length))
            }
            Content::Memory(object) => {
                let mut bytes = Vec::new();
                object.write_dataset(&mut bytes).map_err(|error| self.wrong(error.to_string()))?;
                Ok(in_memory(bytes))
            }
        }
    }

    /// The data set in Implicit VR Little Endian.
    pub(super) fn implicit_data_set(&self) -> Result<(Box<dyn Read + Send>, u64), SendError> {
        let bytes = match &self.content {
            Content::File(file) => file.implicit_data_set()?,
            Content::Memory(object) => implicit((***object).clone()).map_err(|reason| self.wrong(reason))?,
        };
        Ok(in_memory(bytes))
    }

    /// Fails if it cannot be named in a command.
    pub(super) fn check(&self) -> Result<(), SendError> {
        let is_named = [&self.class_uid, &self.uid].into_iter().all(|uid| !uid.is_empty() && is_uid(uid));
        if is_named { Ok(()) } else { Err(self.wrong("its SOP class or instance is no UID".into())) }
    }

    fn wrong(&self, reason: String) -> SendError {
        SendError::Instance { name: self.name.clone(), reason }
    }
}

fn in_memory(bytes: Vec<u8>) -> (Box<dyn Read + Send>, u64) {
    let length = bytes.len() as u64;
    (Box::new(Cursor::new(bytes)), length)
}
