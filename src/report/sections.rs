//! Sections of the report while its run goes on: on disk, so that memory does not grow with the number of cases.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ReportError;

/// Texts in a file without a name, which goes with this process.
#[derive(Debug)]
pub(super) struct Sections {
    file: File,
    /// Where the file is, for messages.
    folder: PathBuf,
}

impl Sections {
    /// None yet; the file is in `folder`.
    pub fn new(folder: &Path) -> Result<Self, ReportError> {
        let file = tempfile::tempfile_in(folder).map_err(ReportError::io(folder))?;
        Ok(Self { file, folder: folder.to_path_buf() })
    }

    /// Keeps a text, and says where.
    pub fn append(&mut self, text: &str) -> Result<Range<u64>, ReportError> {
        let mut append = || -> io::Result<Range<u64>> {
            let start = self.file.seek(SeekFrom::End(0))?;
            self.file.write_all(text.as_bytes())?;
            Ok(start..start + text.len() as u64)
        };
        append().map_err(ReportError::io(&self.folder))
    }

    /// Copies the text that lies there.
    pub fn copy(&self, place: &Range<u64>, to: &mut dyn Write) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.start))?;
        io::copy(&mut file.take(place.end - place.start), to)?;
        Ok(())
    }
}
