//! A record of the files that our runs have written to an output folder: all other files in it belong to somebody
//! else and are not overwritten. The record is a hidden file in the folder. A file is recorded before it is written,
//! so that the next run does not treat a file of an interrupted run as foreign. When it is complete, its sha256 is
//! recorded, so that a label map that somebody has corrected since is treated as foreign.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CasePart, ReportError};
use crate::files::write_atomically;
use crate::weights::sha256_file;

/// File name of the record; runs over parts of the cases have one each.
const RECORD: &str = ".spsam.json";
/// What the names of all records begin with.
const RECORDS: &str = ".spsam";

/// The files that runs have written to a folder.
#[derive(Debug)]
pub struct OutputRecord {
    path: PathBuf,
    /// File names with their sha256; without it while the file is being written.
    files: Files,
    /// The records of other runs, at the time of reading.
    others: Vec<Files>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Files(BTreeMap<String, Option<String>>);

impl OutputRecord {
    /// Reads the records of a folder; empty if there are none.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        Self::read_for(folder, CasePart::WHOLE)
    }

    /// As [`OutputRecord::read`], to be written by a run over a part of the cases.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn read_for(folder: &Path, part: CasePart) -> Result<Self, ReportError> {
        let path = folder.join(part.name(RECORD));
        let mut others = Vec::new();
        for other in records(folder)?.into_iter().filter(|other| *other != path) {
            others.push(Files::read(&other)?);
        }
        Ok(Self { files: Files::read(&path)?, path, others })
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Fails if a file with one of these names exists and is not as a run has left it.
    ///
    /// # Errors
    /// [`ReportError::Foreign`], [`ReportError::Io`].
    pub fn check<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<(), ReportError> {
        let mut foreign = Vec::new();
        for name in names {
            let path = self.folder().join(name.as_ref());
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
        let entries: Vec<_> =
            [&self.files].into_iter().chain(&self.others).filter_map(|files| files.0.get(name)).collect();
        if entries.is_empty() || entries.contains(&&None) {
            return Ok(!entries.is_empty());
        }
        Ok(path.is_file() && entries.contains(&&Some(hash(path)?)))
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
            let path = self.folder().join(name.as_ref());
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
        write_atomically(&self.path, |file| {
            serde_json::to_writer_pretty(&mut *file, &self.files)?;
            file.write_all(b"\n")
        })
        .map_err(ReportError::io(&self.path))
    }
}

impl Files {
    fn read(path: &Path) -> Result<Self, ReportError> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| ReportError::io(path)(io::Error::new(io::ErrorKind::InvalidData, error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(ReportError::io(path)(error)),
        }
    }
}

/// The records in a folder.
fn records(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(ReportError::io(folder))?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(ReportError::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(RECORDS) && name.ends_with(".json") {
            records.push(path);
        }
    }
    Ok(records)
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
    fn runs_over_parts_know_the_files_of_each_other_and_keep_their_records_apart() {
        let folder = tempfile::tempdir().unwrap();
        let part = |index| OutputRecord::read_for(folder.path(), CasePart::new(index, 2).unwrap()).unwrap();
        let file = folder.path().join("a.nii.gz");
        let (mut one, mut two) = (part(0), part(1));
        one.begin(["a.nii.gz"]).unwrap();
        fs::write(&file, "of part 0").unwrap();
        one.complete(["a.nii.gz"]).unwrap();
        two.begin(["b.nii.gz"]).unwrap();
        let whole = || OutputRecord::read(folder.path()).unwrap();
        assert!(whole().check(["a.nii.gz", "b.nii.gz"]).is_ok());
        let mut later = whole();
        later.begin(["a.nii.gz"]).unwrap();
        fs::write(&file, "of a run over all").unwrap();
        later.complete(["a.nii.gz"]).unwrap();
        assert!(part(0).check(["a.nii.gz"]).is_ok());
        fs::write(&file, "corrected by hand").unwrap();
        assert!(part(0).check(["a.nii.gz"]).is_err() && whole().check(["a.nii.gz"]).is_err());
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(RECORD), "{").unwrap();
        assert!(OutputRecord::read(folder.path()).unwrap_err().to_string().contains(RECORD));
    }
}
