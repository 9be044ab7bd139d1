//! Finds the files of each case: single files, folders, lists, and the layouts of the Medical Segmentation
//! Decathlon (`imagesTr`, `labelsTr`, 4D files), nnU-Net (`<case>_0000.nii.gz` for each modality), ACDC
//! (`patient001/patient001_frame01.nii.gz` with `_gt`) and Synapse (`img0001.nii.gz`, `label0001.nii.gz`); folders of
//! DICOM files.
//!
//! ```text
//! input ─ images ─► files ─ group ─► cases ─ labels ─► cases with labels        truth, predictions ─ pairs ─► pairs
//! ```

mod group;
mod images;
mod labels;
mod left_out;
mod list;
mod names;
mod pairs;
pub(super) mod written;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::VolumeError;
use super::label_files::{LabelFiles, number_masks};
pub use left_out::{LeftOut, Reason};
use names::{is_volume, natural_order};
pub use pairs::{Pair, Pairs, pair};

/// Maximum depth of nested folders.
const MOST_LEVELS: usize = 6;

/// The files of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseFiles {
    /// Name of the case and of its result files.
    pub case_id: String,
    /// One file per modality, or one 4D file with all of them.
    #[serde(with = "written::paths")]
    pub images: Vec<PathBuf>,
    /// Its labels.
    #[serde(default)]
    pub labels: Option<LabelFiles>,
}

/// The cases of an input, and everything in it that cannot be used.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The cases in natural order of their names.
    pub cases: Vec<CaseFiles>,
    /// Unusable entries of a list and DICOM series: a name for results, and the reason. The cases do not depend on them.
    pub unusable: Vec<(String, VolumeError)>,
    /// Names of cases whose labels are required but missing or ambiguous. They are in `cases` without labels.
    pub without_labels: Vec<(String, VolumeError)>,
    /// Files and folders that are not used as images.
    pub left_out: Vec<LeftOut>,
    /// How names were interpreted, for the user.
    pub notes: Vec<String>,
}

impl Discovery {
    /// Finds the cases in `input`: a volume, a folder of a known layout or with DICOM series, a `dataset.json`, or a `.txt` file with one
    /// volume or folder per line, relative to the list's folder. With `labels` (a folder, which may be `input`
    /// itself, or a file) finds the labels of every case.
    ///
    /// # Errors
    /// [`VolumeError::Io`], [`VolumeError::NoCases`], [`VolumeError::List`], [`VolumeError::ModalityCount`] and
    /// [`VolumeError::DuplicateCase`].
    pub fn find(input: &Path, labels: Option<&Path>, modalities: usize) -> Result<Self, VolumeError> {
        let images::Images { files, unusable, left_out } = images::Images::collect(input)?;
        let mut found = Self { unusable, left_out, ..Self::default() };
        found.cases = group::group(files, modalities, &mut found.notes)?;
        if let Some(root) = labels {
            labels::LabelIndex::new(root)?.add_to(&mut found.cases, &mut found.without_labels);
            number_masks(found.cases.iter_mut().filter_map(|case| case.labels.as_mut()))?;
            let used = used_labels(&found.cases);
            found.left_out.retain(|left_out| !used.contains(&identity(&left_out.path)));
        }
        group::make_unique(&mut found.cases)?;
        found.cases.sort_by(|a, b| natural_order(&a.case_id, &b.case_id));
        Ok(found)
    }

    /// Logs what is not used, and how names were interpreted.
    pub fn log(&self) {
        left_out::log(&self.left_out);
        for note in &self.notes {
            tracing::warn!("{note}");
        }
    }
}

/// The cases of [`Discovery::find`] if all of the input can be used; with `labels`, every case has labels.
///
/// # Errors
/// Those of [`Discovery::find`]; the first unusable entry of a list; [`VolumeError::MissingLabels`] and
/// [`VolumeError::AmbiguousLabels`].
pub fn discover(
    input: &Path,
    labels: Option<&Path>,
    modalities: usize,
) -> Result<Vec<CaseFiles>, VolumeError> {
    let found = Discovery::find(input, labels, modalities)?;
    found.log();
    match found.unusable.into_iter().chain(found.without_labels).next() {
        Some((_, error)) => Err(error),
        None => Ok(found.cases),
    }
}

/// The label files of the cases, and their folders.
fn used_labels(cases: &[CaseFiles]) -> HashSet<PathBuf> {
    let mut used = HashSet::new();
    let labels = cases.iter().filter_map(|case| case.labels.as_ref());
    for file in labels.flat_map(LabelFiles::files) {
        let file = identity(file);
        // If a folder is known, so are its parents.
        for path in file.ancestors() {
            if !used.insert(path.to_path_buf()) {
                break;
            }
        }
    }
    used
}

fn metadata(path: &Path) -> Result<fs::Metadata, VolumeError> {
    fs::metadata(path).map_err(|source| VolumeError::Io { path: path.into(), source })
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn folder_name(path: &Path) -> String {
    parent(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A unique path of the file, however it was named. Links to files are not resolved, because they may be separate
/// cases.
fn identity(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.into(),
    }
}

/// The entries of a folder, sorted, without hidden ones (macOS creates `._` files).
struct Entries {
    volumes: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// Medical images in unsupported formats.
    other_formats: Vec<PathBuf>,
}

fn entries(folder: &Path) -> Result<Entries, VolumeError> {
    let io = |source| VolumeError::Io { path: folder.into(), source };
    let mut found = Entries { volumes: Vec::new(), folders: Vec::new(), other_formats: Vec::new() };
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        } else if path.is_dir() {
            found.folders.push(path);
        } else if is_volume(&path) {
            found.volumes.push(path);
        } else if names::is_other_format(&path) {
            found.other_formats.push(path);
        }
    }
    found.volumes.sort();
    found.folders.sort();
    found.other_formats.sort();
    Ok(found)
}
