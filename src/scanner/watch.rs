//! A watched folder: DICOM files that appear in it or in its subfolders are taken once they no longer change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::intake::Intake;
use super::spool::{Refusal, Status, hashed};
use crate::dicom::is_dicom;
use crate::files::write_atomically;

/// Folders within folders.
const MOST_LEVELS: usize = 16;
/// Most files that are looked at.
const MOST_FILES: usize = 1 << 20;
/// Pause before a file is tried again for which there was no space, or that could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 1 << 20;
/// File of the spool with hashes of the files that were taken, one a line.
const TAKEN: &str = "watched";

/// The folder, and what is known about its files.
pub struct Watch {
    folder: PathBuf,
    intake: Arc<Intake>,
    files: BTreeMap<PathBuf, Known>,
    taken: BTreeSet<String>,
    taken_file: PathBuf,
    passes: u64,
}

/// A file when it was last looked at.
struct Known {
    bytes: u64,
    modified: SystemTime,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// It may still grow.
    New,
    /// It is taken, or will not be.
    Settled,
    /// There was no space for it, or it could not be read.
    Wait(Instant),
}

impl Watch {
    /// # Errors
    /// A folder that cannot be read.
    pub fn new(folder: &Path, intake: Arc<Intake>) -> io::Result<Self> {
        fs::read_dir(folder)?;
        let taken_file = intake.spool().folder().join(TAKEN);
        let taken = match fs::read_to_string(&taken_file) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { folder: folder.into(), intake, files: BTreeMap::new(), taken, taken_file, passes: 0 })
    }

    /// Looks at the files once, and takes those that have not changed since the last time.
    pub fn look(&mut self) {
        let mut found = BTreeMap::new();
        if let Err(error) = walk(&self.folder, 0, &mut found) {
            return tracing::warn!("{}: {error}", self.folder.display());
        }
        self.files.retain(|path, _| found.contains_key(path));
        for (path, metadata) in found {
            self.on_file(path, &metadata);
        }
        self.passes += 1;
        if self.passes == 1 {
            self.forget();
        }
    }

    fn on_file(&mut self, path: PathBuf, metadata: &Metadata) {
        let (bytes, modified) = (metadata.len(), metadata.modified().unwrap_or(UNIX_EPOCH));
        let is_same = |known: &&Known| (known.bytes, known.modified) == (bytes, modified);
        let state = match self.files.get(&path).filter(is_same).map(|known| known.state) {
            None if self.taken.contains(&mark(&path, bytes, modified)) => State::Settled,
            None => State::New,
            Some(State::Settled) => return,
            Some(State::Wait(until)) if Instant::now() < until => return,
            Some(_) => self.take(&path, bytes, &mark(&path, bytes, modified)),
        };
        self.files.insert(path, Known { bytes, modified, state });
    }

    fn take(&mut self, path: &Path, bytes: u64, mark: &str) -> State {
        // The names of folders may be those of patients.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let most = self.intake.spool().limits().instance_bytes;
        if bytes > most {
            tracing::warn!("file {name} of the watched folder: refused: larger than {} MB", most >> 20);
            return State::Settled;
        }
        match is_dicom(path) {
            Ok(true) => {}
            Ok(false) => return State::Settled,
            Err(error) => {
                tracing::warn!("file {name} of the watched folder: {error}");
                return State::Wait(Instant::now() + RETRY_AFTER);
            }
        }
        match self.store(path) {
            Ok(()) => self.remember(mark),
            Err(refusal) => {
                tracing::warn!("file {name} of the watched folder: refused: {refusal}");
                if refusal.status == Status::OutOfResources {
                    return State::Wait(Instant::now() + RETRY_AFTER);
                }
            }
        }
        State::Settled
    }

    fn store(&self, path: &Path) -> Result<(), Refusal> {
        // It may be readable later.
        let unreadable = |error: io::Error| Refusal::new(Status::OutOfResources, error.to_string());
        let mut file = File::open(path).map_err(unreadable)?;
        let mut incoming = self.intake.spool().begin()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk).map_err(unreadable)? {
                0 => break,
                length => incoming.write(&chunk[..length])?,
            }
        }
        self.intake.store(incoming, None).map(|_| ())
    }

    fn remember(&mut self, mark: &str) {
        self.taken.insert(mark.to_owned());
        let file = OpenOptions::new().create(true).append(true).open(&self.taken_file);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{mark}")) {
            tracing::warn!("{}: {error}", self.taken_file.display());
        }
    }

    /// Forgets files that are gone.
    fn forget(&mut self) {
        let present: BTreeSet<String> =
            self.files.iter().map(|(path, known)| mark(path, known.bytes, known.modified)).collect();
        let before = self.taken.len();
        self.taken.retain(|mark| present.contains(mark));
        if self.taken.len() < before {
            let lines: String = self.taken.iter().map(|mark| format!("{mark}\n")).collect();
            let written = write_atomically(&self.taken_file, |file| file.write_all(lines.as_bytes()));
            if let Err(error) = written {
                tracing::warn!("{}: {error}", self.taken_file.display());
            }
        }
    }
}

/// Stands for a file with this content.
fn mark(path: &Path, bytes: u64, modified: SystemTime) -> String {
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    hashed([path.as_os_str().as_bytes(), format!(" {bytes} {modified}").as_bytes()].concat())
}

/// The files of a folder and its subfolders that are not hidden. Links to folders are not followed.
fn walk(folder: &Path, level: usize, found: &mut BTreeMap<PathBuf, Metadata>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if entry.file_name().as_bytes().starts_with(b".") || found.len() >= MOST_FILES {
            continue;
        }
        let path = entry.path();
        if kind.is_dir() {
            if level < MOST_LEVELS && walk(&path, level + 1, found).is_err() {
                tracing::debug!("a subfolder of the watched folder cannot be read");
            }
        } else if let Ok(metadata) = fs::metadata(&path)
            && metadata.is_file()
        {
            found.insert(path, metadata);
        }
    }
    Ok(())
}
