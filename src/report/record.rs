//! A record of the files that our runs have written to an output folder: all other files in it belong to somebody
//! else and are not overwritten. The record is a hidden file in the folder. A file is recorded before it is written,
//! so that the next run does not treat a file of an interrupted run as foreign. When it is complete, its sha256 is
//! recorded, so that a label map that somebody has corrected since is treated as foreign.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ReportError;
use crate::files::write_atomically;
use crate::weights::sha256_file;

/// File name of the record.
const RECORD: &str = ".spsam.json";

/// The files that runs have written to a folder.
#[derive(Debug)]
pub struct OutputRecord {
    folder: PathBuf,
    /// File names with their sha256; without it while the file is being written.
    files: Files,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Files(BTreeMap<String, Option<String>>);

impl OutputRecord {
    /// Reads the record of a folder; empty if there is none.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let path = folder.join(RECORD);
        let files = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| ReportError::io(&path)(io::Error::new(io::ErrorKind::InvalidData, error)))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Files::default(),
            Err(error) => return Err(ReportError::io(&path)(error)),
        };
        Ok(Self { folder: folder.to_path_buf(), files })
    }

    /// Fails if a file with one of these names exists and is not as a run has left it.
    ///
    /// # Errors
    /// [`ReportError::Foreign`], [`ReportError::Io`].
    pub fn check<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<(), ReportError> {
        let mut foreign = Vec::new();
        for name in names {
            let path = self.folder.join(name.as_ref());
            if path.symlink_metadata().is_ok() && !self.is_ours(name.as_ref(), &path)? {
                foreign.push(path);
            }
        }
        let others = foreign.len().saturating_sub(1);
        match foreign.into_iter().next() {
            Some(path) => Err(ReportError::Foreign { path, others }),
            None => Ok(()),
        }
    }

    fn is_ours(&self, name: &str, path: &Path) -> Result<bool, ReportError> {
        Ok(match self.files.0.get(name) {
            None => false,
            Some(None) => true,
            Some(Some(sha256)) => path.is_file() && hash(path)? == *sha256,
        })
    }

    /// Records files that are about to be written.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn begin<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) -> Result<(), ReportError> {
        self.files.0.extend(names.into_iter().map(|name| (name.as_ref().to_owned(), None)));
        self.write()
    }

    /// Records files that are complete; a file that does not exist was not written.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn complete<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) -> Result<(), ReportError> {
        for name in names {
            let path = self.folder.join(name.as_ref());
            match path.is_file() {
                true => {
                    self.files.0.insert(name.as_ref().to_owned(), Some(hash(&path)?));
                }
                false => {
                    self.files.0.remove(name.as_ref());
                }
            }
        }
        self.write()
    }

    fn write(&self) -> Result<(), ReportError> {
        let path = self.folder.join(RECORD);
        write_atomically(&path, |file| {
            serde_json::to_writer_pretty(&mut *file, &self.files)?;
            file.write_all(b"\n")
        })
        .map_err(ReportError::io(&path))
    }
}

fn hash(path: &Path) -> Result<String, ReportError> {
    sha256_file(path).map_err(|error| ReportError::io(path)(io::Error::other(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_run_has_written_and_nobody_has_changed_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let check =
            |name: &str| OutputRecord::read(folder.path()).unwrap().check([name]).map_err(|e| e.to_string());
        fs::write(path("theirs.nii.gz"), "truth").unwrap();
        let error = check("theirs.nii.gz").unwrap_err();
        assert!(error.contains("theirs.nii.gz") && error.contains("--overwrite"), "{error}");
        assert_eq!(check("absent.nii.gz"), Ok(()));

        let mut record = OutputRecord::read(folder.path()).unwrap();
        record.begin(["ours.nii.gz", "never.csv"]).unwrap();
        fs::write(path("ours.nii.gz"), "half").unwrap();
        assert_eq!(check("ours.nii.gz"), Ok(()), "a run that was cut off");
        record.complete(["ours.nii.gz", "never.csv"]).unwrap();
        assert_eq!(check("ours.nii.gz"), Ok(()));
        fs::write(path("never.csv"), "theirs").unwrap();
        assert!(check("never.csv").is_err());
        fs::write(path("ours.nii.gz"), "corrected by hand").unwrap();
        assert!(check("ours.nii.gz").is_err());
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(RECORD), "{").unwrap();
        assert!(OutputRecord::read(folder.path()).unwrap_err().to_string().contains(RECORD));
    }
}
