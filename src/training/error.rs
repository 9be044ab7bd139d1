//! What can stop a training run.

use std::path::PathBuf;

use thiserror::Error;

use crate::bundle::BundleError;
use crate::metrics::MetricsError;
use crate::network::segmenter::SegmenterError;
use crate::report::ReportError;
use crate::volume::VolumeError;
use crate::weights::CheckpointError;

/// Error of [`crate::training`]. Each is one line.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The configuration is not valid YAML, lacks a field or has an unknown one.
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: serde_yaml::Error },
    /// The configuration has a value that cannot work.
    #[error("{path}: {reason}")]
    Config { path: PathBuf, reason: String },
    /// The split leaves nothing to train on, or names cases that are not there.
    #[error("{path}: {reason}")]
    Split { path: PathBuf, reason: String },
    /// Labels that stand for no class.
    #[error("{path}: label {label}, but the model has {classes} classes (0 is the background)")]
    Label { path: PathBuf, label: u8, classes: usize },
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The bundle that is made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// A part of the network.
    #[error(transparent)]
    Segmenter(#[from] SegmenterError),
    /// Figures of the validation.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Pictures of the validation.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A loss or a gradient is NaN or infinite. Nothing was changed by the step.
    #[error("step {step}: {what} is {value}; the parameters are those of the step before")]
    NotFinite { step: u64, what: &'static str, value: f64 },
    /// Gradients have come back in other shapes than the activations that they are of.
    #[error("gradients of the shapes {found:?} have come for activations of {expected:?}")]
    Gradients { found: Vec<Vec<i64>>, expected: Vec<Vec<i64>> },
    /// A shard is not what the part expects.
    #[error("{path}: {reason}")]
    Shard { path: PathBuf, reason: String },
    /// Frozen weights have changed, which must not be.
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
