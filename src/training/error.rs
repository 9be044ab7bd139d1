//! Errors that stop a training run.

use std::path::PathBuf;

use thiserror::Error;

use crate::bundle::BundleError;
use crate::metrics::MetricsError;
use crate::network::segmenter::SegmenterError;
use crate::report::ReportError;
use crate::volume::VolumeError;
use crate::weights::CheckpointError;

/// Error of [`crate::training`]. Each message is one line.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The configuration is not valid YAML, lacks a field or has an unknown one.
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: serde_yaml::Error },
    /// The configuration has a value that is not possible.
    #[error("{path}: {reason}")]
    Config { path: PathBuf, reason: String },
    /// The split leaves no case for training or validation, or names cases that do not exist.
    #[error("{path}: {reason}")]
    Split { path: PathBuf, reason: String },
    /// A dataset on which training is not possible, in one line that names the file.
    #[error("{text}")]
    Dataset { text: String },
    /// A label is not one of the classes.
    #[error("{path}: label {label}, but the model has {classes} classes (0 is the background)")]
    Label { path: PathBuf, label: u8, classes: usize },
    /// An error of a volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// An error of the bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An error of the weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// An error of a part of the network.
    #[error(transparent)]
    Segmenter(#[from] SegmenterError),
    /// An error of the validation's metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// An error of the validation's pictures.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A loss or a gradient is NaN or infinite. The step has changed nothing.
    #[error("step {step}: {what} is {value}; the parameters are those of the step before")]
    NotFinite { step: u64, what: &'static str, value: f64 },
    /// Gradients have other shapes than their activations.
    #[error("gradients have the shapes {found:?}, their activations {expected:?}")]
    Gradients { found: Vec<Vec<i64>>, expected: Vec<Vec<i64>> },
    /// A shard is not what the part expects.
    #[error("{path}: {reason}")]
    Shard { path: PathBuf, reason: String },
    /// Frozen weights have changed.
    #[error("frozen weights of the {part} have changed during the training")]
    FrozenChanged { part: &'static str },
    /// A loader thread has ended.
    #[error("a loader thread has ended: {0}")]
    Loader(String),
}

impl TrainingError {
    /// An I/O error with its path.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
