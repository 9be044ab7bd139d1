//! What can be wrong with a weight file.

use std::path::PathBuf;

use thiserror::Error;

/// Why weights could not be read, written or loaded. Each is one line that names the file and, where there is
/// one, the key.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file is missing, unreadable or cannot be written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is something else than a `.pth` or `.safetensors` file with a state dict.
    #[error("{path}: not a checkpoint: {reason}")]
    NotACheckpoint { path: PathBuf, reason: String },
    /// The file ends too early.
    #[error("{path}: truncated: {reason}")]
    Truncated { path: PathBuf, reason: String },
    /// The file is of the right type but contradicts itself.
    #[error("{path}: damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    /// The network has a parameter that the file has not.
    #[error("{path}: missing key {key}{}", others(*.more))]
    Missing { path: PathBuf, key: String, more: usize },
    /// The file has a key that belongs to no part of the network.
    #[error("{path}: unexpected key {key}{}", others(*.more))]
    Unexpected { path: PathBuf, key: String, more: usize },
    /// Same key, other shape.
    #[error("{path}: {key} has shape {found:?}, the network expects {expected:?}")]
    Shape { path: PathBuf, key: String, expected: Vec<i64>, found: Vec<i64> },
    /// A weight that is not floating point, or a counter that is.
    #[error("{path}: {key} is {found}, expected {expected}")]
    Kind { path: PathBuf, key: String, expected: &'static str, found: &'static str },
    /// An entry of the state dict is no tensor, or one of a type that is not supported.
    #[error("{path}: {key} is not a tensor that can be read: {reason}")]
    NotATensor { path: PathBuf, key: String, reason: String },
    /// A weight is NaN or infinite, or becomes so in the precision asked for.
    #[error("{path}: {key} has NaN or infinite values as {kind}")]
    NonFinite { path: PathBuf, key: String, kind: &'static str },
    /// The file is not the one that was expected.
    #[error("{path}: sha256 is {found}, expected {expected}")]
    Hash { path: PathBuf, expected: String, found: String },
    /// libtorch refused.
    #[error("{path}: {key}: {reason}")]
    Torch { path: PathBuf, key: String, reason: String },
}

fn others(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more)") }
}
