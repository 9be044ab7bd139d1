//! The folder of what waits to be sent.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::write_atomically;
use crate::scanner::now_ns;
use crate::scanner::spool::make_private;

const LOCK: &str = "lock";
const REFUSED: &str = "refused";
/// Digits of the time in a file's name, so that names sort by it.
const DIGITS: usize = 20;

/// How much an outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Instances that wait; 10,000.
    pub instances: usize,
    /// Their size, bytes; 4 GB.
    pub bytes: u64,
    /// Refused instances that are kept, the newest; 100.
    pub refused: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { instances: 10_000, bytes: 4 << 30, refused: 100 }
    }
}

/// Why an outbox does not take an instance.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// It holds as much as it may.
    #[error("the outbox {folder} is full ({count} instances wait)")]
    Full { folder: PathBuf, count: usize },
    /// A file or folder that cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// An outbox, for one process.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    limits: OutboxLimits,
    /// Held while the process lives.
    _lock: File,
}

impl Outbox {
    /// Opens the folder, made if necessary and then readable only for this user, with what an earlier process has left.
    ///
    /// # Errors
    /// A folder that cannot be read or written to, or that another process uses.
    pub fn open(folder: &Path, limits: OutboxLimits) -> io::Result<Self> {
        make_private(folder)?;
        fs::create_dir_all(folder.join(REFUSED))?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another process sends from this outbox"),
            TryLockError::Error(error) => error,
        })?;
        Ok(Self { folder: folder.into(), limits, _lock: lock })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts a copy of a file into the outbox. It is on disk when this returns, and replaces what waits under the same name.
    ///
    /// # Errors
    /// [`OutboxError`]; the file is then not sent.
    pub fn put(&self, name: &str, file: &Path) -> Result<(), OutboxError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OutboxError::Io { path, source }
        };
        let waiting = self.waiting().map_err(io(&self.folder))?;
        let (replaced, others): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|path| is_called(path, name));
        let size = |path: &Path| path.metadata().map_or(0, |about| about.len());
        let bytes = others.iter().map(|path| size(path)).sum::<u64>() + size(file);
        if others.len() >= self.limits.instances || bytes > self.limits.bytes {
            return Err(OutboxError::Full { folder: self.folder.clone(), count: others.len() });
        }
        let mut source = File::open(file).map_err(io(file))?;
        let to = self.folder.join(format!("{:0DIGITS$}_{name}", now_ns().max(0)));
        write_atomically(&to, |to| io::copy(&mut source, to).map(|_| ())).map_err(io(&to))?;
        replaced.iter().try_for_each(|path| remove(path).map_err(io(path)))
    }

    /// What waits, oldest first.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn waiting(&self) -> io::Result<Vec<PathBuf>> {
        instances(&self.folder)
    }

    /// An instance is delivered.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(super) fn delivered(&self, path: &Path) -> io::Result<()> {
        remove(path)
    }

    /// Sets an instance aside that is refused for good; returns where it is.
    ///
    /// # Errors
    /// A folder that cannot be read or written to.
    pub(super) fn refuse(&self, path: &Path) -> io::Result<PathBuf> {
        let refused = self.folder.join(REFUSED);
        let to = refused.join(path.file_name().unwrap_or_default());
        fs::rename(path, &to)?;
        let kept = instances(&refused)?;
        let oldest = kept.len().saturating_sub(self.limits.refused);
        kept[..oldest].iter().try_for_each(|path| remove(path))?;
        Ok(to)
    }
}

/// The name under which an instance was put into the outbox.
pub(super) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split_once('_').map_or(&*name, |(_, name)| name).to_owned()
}

fn is_called(path: &Path, name: &str) -> bool {
    name_of(path) == name
}

/// The files of a folder that are named as instances, in the order of their names.
fn instances(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let time = name.split_once('_').map(|(time, _)| time).unwrap_or_default();
        if time.len() == DIGITS && time.bytes().all(|byte| byte.is_ascii_digit()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Deletes a file that may have been replaced meanwhile.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| name_of(path)).collect()
    }

    #[test]
    fn what_was_put_waits_in_order_and_is_replaced_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (file, at) = (folder.path().join("file"), folder.path().join("out"));
        let limits = OutboxLimits { instances: 2, bytes: 9, refused: 1 };
        let outbox = Outbox::open(&at, limits).unwrap();
        assert!(Outbox::open(&at, limits).unwrap_err().to_string().contains("another process"));
        fs::write(&file, "one").unwrap();
        outbox.put("a.dcm", &file).unwrap();
        outbox.put("b_1.dcm", &file).unwrap();
        fs::write(&file, "newer").unwrap();
        outbox.put("a.dcm", &file).unwrap();
        // Full by number, and by size.
        let full = |name: &str| outbox.put(name, &file).unwrap_err().to_string();
        assert!(full("c.dcm").contains("is full (2 instances wait)"), "{}", full("c.dcm"));
        fs::write(&file, "too many").unwrap();
        assert!(full("a.dcm").contains("is full (1 instances wait)"), "{}", full("a.dcm"));
        drop(outbox);
        // Another process finds it.
        fs::write(at.join("notes.txt"), "").unwrap();
        let outbox = Outbox::open(&at, limits).unwrap();
        let waiting = outbox.waiting().unwrap();
        assert_eq!(names(&waiting), ["b_1.dcm", "a.dcm"]);
        assert_eq!(fs::read_to_string(&waiting[1]).unwrap(), "newer");
        let refused = outbox.refuse(&waiting[0]).unwrap();
        assert!(refused.exists());
        outbox.refuse(&waiting[1]).unwrap();
        assert!(!refused.exists(), "only the newest is kept");
        assert!(outbox.waiting().unwrap().is_empty());
        assert!(
            outbox.put("d.dcm", &folder.path().join("absent")).unwrap_err().to_string().contains("absent")
        );
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
