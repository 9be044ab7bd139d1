//! Why DICOM files cannot be read. Each message is one line that names the file or folder.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Error of [`crate::dicom`].
#[derive(Debug, Error)]
pub enum DicomError {
    /// The file or folder is missing or unreadable.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A file is damaged, or holds what cannot be used as an image.
    #[error("{path}: unusable DICOM file: {reason}")]
    File { path: PathBuf, reason: String },
    /// The images of a series do not form a volume.
    #[error("{path}: unusable DICOM series: {reason}")]
    Series { path: PathBuf, reason: String },
    /// There are several volumes where one is expected.
    #[error("{path}: {count} volumes: {names}; give one of them")]
    Several { path: PathBuf, count: usize, names: String },
    /// The folder has no DICOM image.
    #[error("{path}: a folder without DICOM images")]
    NoImage { path: PathBuf },
}

impl DicomError {
    pub(super) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File { path: path.into(), reason: reason.into() }
    }

    pub(super) fn series(path: &Path, reason: impl Into<String>) -> Self {
        Self::Series { path: path.into(), reason: reason.into() }
    }

    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}
