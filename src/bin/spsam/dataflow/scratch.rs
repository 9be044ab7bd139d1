//! A temporary folder for a run, because dora writes beside the dataflow file.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eyre::{Result, bail};
use tempfile::TempDir;

const PREFIX: &str = "spsam-run-";
/// A file in the folder that is locked during the run.
const LOCK: &str = "lock";
/// A folder younger than this may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Removed at the end; after a SIGKILL, the next run removes it.
pub struct Scratch {
    folder: TempDir,
    _lock: File,
}

impl Scratch {
    /// Makes the folder in the first writable place: the session's folder, the folder for temporary files, memory,
    /// the output folder.
    pub fn new(output: &Path) -> Result<Self> {
        let session = env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let places = session.into_iter().chain([env::temp_dir(), "/dev/shm".into(), output.into()]);
        let mut refused = Vec::new();
        for place in places {
            remove_left_over(&place);
            match Self::within(&place) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => refused.push(format!("{}: {error}", place.display())),
            }
        }
        bail!("there is no folder for temporary files: {}", refused.join(", "))
    }

    fn within(place: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.try_lock()?;
        Ok(Self { folder, _lock: lock })
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes folders of runs that were killed.
fn remove_left_over(place: &Path) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let age = entry.metadata().and_then(|about| about.modified()).map(|time| time.elapsed());
        let is_old = age.is_ok_and(|age| age.is_ok_and(|age| age > YOUNG));
        let lock = File::open(entry.path().join(LOCK));
        if is_old && lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Another user's folder stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_a_killed_run_has_left_is_removed_and_a_running_one_stays() {
        let place = tempfile::tempdir().unwrap();
        let running = Scratch::within(place.path()).unwrap();
        let killed = place.path().join(format!("{PREFIX}killed"));
        fs::create_dir(&killed).unwrap();
        File::create(killed.join(LOCK)).unwrap();
        for folder in [running.path(), &killed] {
            let hour_ago = SystemTime::now() - Duration::from_secs(3600);
            File::open(folder).unwrap().set_modified(hour_ago).unwrap();
        }
        remove_left_over(place.path());
        assert!(running.path().exists() && !killed.exists());
    }
}
