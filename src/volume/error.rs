//! Why a volume cannot be read, prepared, assembled or written. Each message is one line that names the file.

use std::path::PathBuf;

use thiserror::Error;

/// Error of [`crate::volume`].
#[derive(Debug, Error)]
pub enum VolumeError {
    /// The file or folder is missing, unreadable or unwritable.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is not a NIfTI file.
    #[error("{path}: not a NIfTI file ({reason})")]
    NotNifti { path: PathBuf, reason: &'static str },
    /// A DICOM file or series cannot be used.
    #[error(transparent)]
    Dicom(#[from] crate::dicom::DicomError),
    /// The file ends before its last voxel, or is too short for what its header says.
    #[error("{path}: truncated, the header announces {expected} bytes of voxels")]
    Truncated { path: PathBuf, expected: u64 },
    /// The header contradicts itself, or its voxels are not numbers.
    #[error("{path}: unusable header: {reason}")]
    Header { path: PathBuf, reason: String },
    /// A side of the volume has no voxels.
    #[error("{path}: dimension {axis} is zero")]
    ZeroDimension { path: PathBuf, axis: usize },
    /// Too few or too many dimensions.
    #[error("{path}: shape {shape:?}, expected {expected}")]
    Dimensions { path: PathBuf, shape: Vec<usize>, expected: &'static str },
    /// All voxels are NaN, infinite or too large for 32 bits.
    #[error("{path}: all {count} voxels are NaN or infinite")]
    NonFinite { path: PathBuf, count: usize },
    /// There is not enough memory for the voxels.
    #[error("{path}: {voxels} voxels do not fit into memory")]
    TooLarge { path: PathBuf, voxels: u64 },
    /// Labels have another shape than the image for which they are written.
    #[error("{path}: shape {shape:?} differs from {image}, which has {image_shape:?}")]
    ShapeMismatch { path: PathBuf, shape: [usize; 3], image: PathBuf, image_shape: [usize; 3] },
    /// Labels, a prediction or a further modality are on another grid than the image (or the truth).
    #[error(
        "{path} lies on another grid than {target}: {difference} (the option resample-labels resamples it)"
    )]
    OtherGrid { path: PathBuf, target: PathBuf, difference: String },
    /// The number of modalities differs from the bundle's.
    #[error("{path}: case has {found} modalities, the bundle expects {expected}")]
    ModalityCount { path: PathBuf, found: usize, expected: usize },
    /// Numbered files that are neither the modalities of one case nor clearly several cases.
    #[error(
        "{path}: there are {found} files {case}_0000, {case}_…; these names stand for the modalities of one case (nnU-Net), \
         and the model expects {expected}. Rename the files if they are cases of their own"
    )]
    Modalities { path: PathBuf, found: usize, expected: usize, case: String },
    /// A label is not a valid value of a label map, for instance a probability.
    #[error("{path}: label {value} is not an integer from 0 to 255, and cannot be written as 8-bit")]
    Labels { path: PathBuf, value: f64 },
    /// A label is not one of the classes.
    #[error("{path}: label {value} is not one of the classes{}", advice(*value))]
    UnknownLabel { path: PathBuf, value: u8 },
    /// The mask of a class has several values.
    #[error("{path}: a mask of one class has 0 and one other value; this has {} and {}", values[0], values[1])]
    NoMask { path: PathBuf, values: [u8; 2] },
    /// The masks of a case have different shapes.
    #[error("{path}: its shape differs from the other masks in {folder}")]
    MaskShapes { path: PathBuf, folder: PathBuf },
    /// There are more masks than a label map has values.
    #[error("{folder}: there are masks of {count} classes; a label map holds 255")]
    TooManyMasks { folder: PathBuf, count: usize },
    /// Some cases have a label volume, others masks.
    #[error(
        "{path} is a label volume, but {folder} has a mask for each class; labels must all be of one kind"
    )]
    MixedLabels { path: PathBuf, folder: PathBuf },
    /// A folder of masks contains none of the model's classes.
    #[error("{folder}: no mask has the name of a class: {}", classes.join(", "))]
    NoMaskOfAClass { folder: PathBuf, classes: Vec<String> },
    /// Labels are required, but this case has none.
    #[error("{folder}: no labels for case {case}")]
    MissingLabels { folder: PathBuf, case: String },
    /// Several files could be the labels of a case.
    #[error("case {case}: {} could all belong to it", listed(paths))]
    AmbiguousLabels { case: String, paths: Vec<PathBuf> },
    /// Two files would have the same result file.
    #[error("{path}: a second case has the name {case}; the first is {first}")]
    DuplicateCase { path: PathBuf, case: String, first: PathBuf },
    /// A file is given twice.
    #[error("{path}: case {case} is given twice")]
    Twice { path: PathBuf, case: String },
    /// A list, or an entry of it, cannot be used.
    #[error("{list}: {reason}")]
    List { list: PathBuf, reason: String },
    /// A voxel of a label map to be written is not one of the classes.
    #[error("{path}: a voxel has class {label}, there are {classes} classes")]
    NoClass { path: PathBuf, label: usize, classes: usize },
    /// There is no case.
    #[error("{path}: no .nii or .nii.gz volume and no DICOM series found")]
    NoCases { path: PathBuf },
    /// The region of interest, or a prompt's box, is not a box or does not touch the volume.
    #[error("{path}: {what} lies outside the volume")]
    Outside { path: PathBuf, what: String },
    /// Logits of a window that is not in the plan, or of another shape.
    #[error("case {case}: {reason}")]
    Window { case: String, reason: String },
}

fn advice(value: u8) -> &'static str {
    match value {
        super::USUAL_IGNORE_VALUE => {
            "; 255 is usually an ignore value: --ignore 255 (SPSAM_IGNORE_LABELS=255) leaves its voxels out"
        }
        _ => "",
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}
