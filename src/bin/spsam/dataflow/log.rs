//! The log of a run: the output of dora and its nodes goes to a file, and with `--verbose` also to stderr.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use eyre::{Result, WrapErr};

/// Usual name of the file in the output folder.
pub const LOG: &str = "spsam.log";

/// A file to which several streams are written. Output that cannot be written is dropped: a full disk must not stop
/// a node.
#[derive(Clone)]
pub struct Log {
    path: PathBuf,
    file: Arc<Mutex<File>>,
    verbose: bool,
}

impl Log {
    /// Starts a new log.
    pub fn create(path: &Path, verbose: bool) -> Result<Self> {
        let file = File::create(path).wrap_err_with(|| path.display().to_string())?;
        Ok(Self { path: path.into(), file: Arc::new(Mutex::new(file)), verbose })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a stream to the log until its end, on a separate thread.
    pub fn follow(&self, mut stream: impl Read + Send + 'static) -> io::Result<()> {
        let log = self.clone();
        let copy = move || {
            let mut part = [0; 1 << 14];
            while let Ok(count @ 1..) = stream.read(&mut part) {
                log.write(&part[..count]);
            }
        };
        thread::Builder::new().name("log".into()).spawn(copy)?;
        Ok(())
    }

    /// Appends to the log.
    pub fn write(&self, bytes: &[u8]) {
        if let Ok(mut file) = self.file.lock() {
            let _ = file.write_all(bytes);
        }
        if self.verbose {
            let _ = io::stderr().write_all(bytes);
        }
    }
}
