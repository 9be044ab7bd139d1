//! A file while it arrives.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;

use super::Store;
use super::refusal::{Refusal, Status};

/// A file that is being received. It disappears unless it is stored.
pub struct Incoming {
    file: BufWriter<File>,
    /// `None` once it is stored.
    part: Option<TempPath>,
    path: PathBuf,
    bytes: u64,
    store: Arc<Store>,
}

impl Incoming {
    pub(super) fn new(folder: &Path, store: Arc<Store>) -> io::Result<Self> {
        let file = tempfile::Builder::new().suffix(".part").tempfile_in(folder)?;
        let (file, part) = file.into_parts();
        let path = part.to_path_buf();
        Ok(Self { file: BufWriter::new(file), part: Some(part), path, bytes: 0, store })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`Status::OutOfResources`]: a full disk, or a limit.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let length = bytes.len() as u64;
        let most = self.store.limits.instance_bytes;
        if self.bytes + length > most {
            let reason = format!("the instance is larger than {} MB", most >> 20);
            return Err(Refusal::new(Status::OutOfResources, reason));
        } else if !self.store.state().take(length, self.store.limits.spool_bytes) {
            let reason = "the spool is full of unfinished series";
            return Err(Refusal::new(Status::OutOfResources, reason));
        }
        self.bytes += length;
        self.file.write_all(bytes).map_err(|error| Refusal::no_space(&error))
    }

    /// The file, with everything in it.
    ///
    /// # Errors
    /// A full disk.
    pub(super) fn complete(&mut self) -> io::Result<&Path> {
        self.file.flush()?;
        Ok(&self.path)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Everything is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.get_ref().sync_all()
    }

    /// Gives the file its name; its space remains taken.
    pub(super) fn persist(&mut self, path: &Path) -> io::Result<()> {
        if let Some(part) = self.part.take() {
            part.persist(path).map_err(|error| error.error)?;
            self.bytes = 0;
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.state().give_back(self.bytes);
        }
    }
}
