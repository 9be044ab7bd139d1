//! Why a volume cannot be read, prepared, put together or written; one line each, naming the file.

use std::path::PathBuf;

use thiserror::Error;

/// Error of [`crate::volume`].
#[derive(Debug, Error)]
pub enum VolumeError {
    /// The file or folder is missing, unreadable or unwritable.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is something else.
    #[error("{path}: not a NIfTI-1 file ({reason})")]
    NotNifti { path: PathBuf, reason: &'static str },
    /// The file ends before its last voxel, or cannot be long enough for what its header says.
    #[error("{path}: truncated, the header announces {expected} bytes of voxels")]
    Truncated { path: PathBuf, expected: u64 },
    /// The header contradicts itself or has a type of voxels that is not a number.
    #[error("{path}: unusable header: {reason}")]
    Header { path: PathBuf, reason: String },
    /// A side of the volume has no voxels.
    #[error("{path}: dimension {axis} is zero")]
    ZeroDimension { path: PathBuf, axis: usize },
    /// Too few or too many dimensions.
    #[error("{path}: shape {shape:?}, expected {expected}")]
    Dimensions { path: PathBuf, shape: Vec<usize>, expected: &'static str },
    /// Voxels that are NaN or infinite, or too large for 32 bits.
    #[error("{path}: {count} voxels are NaN or infinite")]
    NonFinite { path: PathBuf, count: usize },
    /// More voxels than there is memory for.
    #[error("{path}: {voxels} voxels do not fit into memory")]
    TooLarge { path: PathBuf, voxels: u64 },
    /// A label volume, or a further modality, is on another grid than the image.
    #[error("{path}: shape {shape:?} differs from {image}, which has {image_shape:?}")]
    ShapeMismatch { path: PathBuf, shape: [usize; 3], image: PathBuf, image_shape: [usize; 3] },
    /// Another number of modalities than the bundle expects.
    #[error("{path}: case has {found} modalities, the bundle expects {expected}")]
    ModalityCount { path: PathBuf, found: usize, expected: usize },
    /// A label that is not a class index.
    #[error("{path}: label {value} is not an integer from 0 to 255")]
    Labels { path: PathBuf, value: f64 },
    /// Labels were asked for and this case has none.
    #[error("{folder}: no labels for case {case}")]
    MissingLabels { folder: PathBuf, case: String },
    /// Two files would write the same result.
    #[error("{path}: a second case is called {case}")]
    DuplicateCase { path: PathBuf, case: String },
    /// Nothing to work on.
    #[error("{path}: no .nii or .nii.gz volume found")]
    NoCases { path: PathBuf },
    /// The region of interest, or a prompt's box, does not touch the volume or is not a box.
    #[error("{path}: {what} lies outside of the volume")]
    Outside { path: PathBuf, what: String },
    /// Logits of a window that the plan does not have, or of another shape.
    #[error("case {case}: {reason}")]
    Window { case: String, reason: String },
}
