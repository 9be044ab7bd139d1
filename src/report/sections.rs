//! Sections of the report during a run. They are on disk, so memory does not grow with the number of cases.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ReportError;

/// Texts in an unnamed file that is deleted when the process ends.
#[derive(Debug)]
pub(super) struct Sections {
    file: File,
    /// Folder of the file, for messages.
    folder: PathBuf,
}

impl Sections {
    /// Starts without texts; the file is in `folder`.
    pub fn new(folder: &Path) -> Result<Self, ReportError> {
        let file = tempfile::tempfile_in(folder).map_err(ReportError::io(folder))?;
        Ok(Self { file, folder: folder.to_path_buf() })
    }

    /// Appends a text and returns its position in the file.
    pub fn append(&mut self, text: &str) -> Result<Range<u64>, ReportError> {
        let mut append = || -> io::Result<Range<u64>> {
            let start = self.file.seek(SeekFrom::End(0))?;
            self.file.write_all(text.as_bytes())?;
            Ok(start..start + text.len() as u64)
        };
        append().map_err(ReportError::io(&self.folder))
    }

    /// Copies the text at this position.
    pub fn copy(&self, place: &Range<u64>, to: &mut dyn Write) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.start))?;
        io::copy(&mut file.take(place.end - place.start), to)?;
        Ok(())
    }
}
