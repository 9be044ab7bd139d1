//! sha256 of weight files.

use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::CheckpointError;

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// sha256 of a file, lower-case hex.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn sha256_file(path: &Path) -> Result<String, CheckpointError> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .map_err(|source| CheckpointError::Io { path: path.into(), source })?;
    Ok(hex(&hasher.finalize()))
}

/// Fails unless the file has the sha256 `expected` (hex, in either case).
///
/// # Errors
/// [`CheckpointError::Hash`] and [`CheckpointError::Io`].
pub fn check_sha256(path: &Path, expected: &str) -> Result<(), CheckpointError> {
    let found = sha256_file(path)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(CheckpointError::Hash { path: path.into(), expected: expected.into(), found })
}
