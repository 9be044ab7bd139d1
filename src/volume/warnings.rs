//! Warnings about files that are read although something is odd: once per file and process, however often it is
//! read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

static GIVEN: LazyLock<Mutex<HashSet<(PathBuf, String)>>> = LazyLock::new(Mutex::default);
static MUTED: AtomicBool = AtomicBool::new(false);

/// Logs a warning that names the file, unless it was logged before.
pub(super) fn warn_once(path: &Path, text: String) {
    if MUTED.load(Ordering::Relaxed) {
        return;
    }
    let is_new =
        GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert((path.to_path_buf(), text.clone()));
    if is_new {
        tracing::warn!("{}: {text}", path.display());
    }
}

/// Turns the warnings of this process off, because another process of the same run reads the files first and logs
/// them.
pub fn mute_warnings() {
    MUTED.store(true, Ordering::Relaxed);
}
