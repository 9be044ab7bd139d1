//! The volumes of a folder, or of a single file.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::DicomError;
use super::geometry::Volume;
pub use super::instance::is_dicom;
use super::instance::slices;
use super::slice::Slice;
use super::split::{Part, split};

/// Endings of DICOM files. Files with these names must be DICOM files; others are tried.
const ENDINGS: [&str; 2] = ["dcm", "ima"];

/// A volume of a folder.
#[derive(Debug)]
pub struct Found {
    /// The folder if it has one volume, else a path in it that only [`locate`] knows: `<folder>_<what distinguishes
    /// it>`.
    pub path: PathBuf,
    /// The volume, or why its slices do not form one.
    pub volume: Result<Volume, DicomError>,
}

/// The DICOM files of a folder.
#[derive(Debug, Default)]
pub struct Study {
    pub volumes: Vec<Found>,
    /// Files without images (reports, segmentations, directories).
    pub others: Vec<PathBuf>,
}

/// Finds the volumes in the files of a folder, not of its subfolders. Names and order do not matter.
///
/// # Errors
/// [`DicomError::Io`]; [`DicomError::File`] for a damaged file, or one that is no DICOM file in spite of its name.
pub fn study(folder: &Path) -> Result<Study, DicomError> {
    let files = dicom_files(folder)?;
    // All files first, so that of several unusable ones always the same is named.
    let read: Vec<Result<Vec<Slice>, DicomError>> = files.par_iter().map(|path| slices(path)).collect();
    let read = read.into_iter().collect::<Result<Vec<Vec<Slice>>, DicomError>>()?;
    let others = files.iter().zip(&read).filter(|(_, slices)| slices.is_empty());
    let others = others.map(|(path, _)| path.clone()).collect();
    let parts = split(read.into_iter().flatten().collect());
    let mut volumes: Vec<Found> = Vec::with_capacity(parts.len());
    for Part { labels, slices } in parts {
        let mut path = named(folder, &labels);
        if volumes.iter().any(|found| found.path == path) {
            path = named(folder, &[labels, vec![(volumes.len() + 1).to_string()]].concat());
        }
        volumes.push(Found { volume: Volume::new(&slices, &path), path });
    }
    Ok(Study { volumes, others })
}

/// Path of a volume: the folder, or a name in it.
fn named(folder: &Path, labels: &[String]) -> PathBuf {
    if labels.is_empty() {
        return folder.into();
    }
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder.join([vec![name], labels.to_vec()].concat().join("_"))
}

fn dicom_files(folder: &Path) -> Result<Vec<PathBuf>, DicomError> {
    let io = |source| DicomError::io(folder, source);
    let entries = fs::read_dir(folder).map_err(io)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(io)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || !path.is_file() {
            continue;
        }
        let is_called_so = path
            .extension()
            .is_some_and(|extension| ENDINGS.iter().any(|ending| extension.eq_ignore_ascii_case(ending)));
        if is_dicom(&path).map_err(|source| DicomError::io(&path, source))? {
            files.push(path);
        } else if is_called_so {
            return Err(DicomError::file(&path, "no DICM prefix at byte 128"));
        }
    }
    Ok(files)
}

/// The volume with this path: a folder with one volume, a single file, or a path of [`Found`]. `None` if there are
/// no DICOM files.
///
/// # Errors
/// Those of [`study`]; [`DicomError::Series`]; [`DicomError::Several`]; [`DicomError::NoImage`].
pub fn locate(path: &Path) -> Result<Option<Volume>, DicomError> {
    if path.is_dir() {
        let found = study(path)?;
        return match (found.volumes.is_empty(), found.others.is_empty()) {
            (true, _) => Err(DicomError::NoImage { path: path.into() }),
            (false, _) => only(path, found.volumes).map(Some),
        };
    } else if path.is_file() {
        return match is_dicom(path).map_err(|source| DicomError::io(path, source))? {
            true => of_file(path).map(Some),
            false => Ok(None),
        };
    }
    let Some(folder) = path.parent().filter(|folder| folder.is_dir()) else { return Ok(None) };
    if !is_named_after(path, folder) {
        return Ok(None);
    }
    let mut volumes = study(folder)?.volumes.into_iter();
    volumes.find(|found| found.path == path).map(|found| found.volume).transpose()
}

/// Whether an image with this path is one of DICOM files: a folder, a DICOM file, or a path of [`Found`].
pub fn is_series(path: &Path) -> bool {
    let is_found = || path.parent().is_some_and(|folder| is_named_after(path, folder));
    path.is_dir() || if path.exists() { is_dicom(path).unwrap_or(false) } else { is_found() }
}

/// Whether a path may come from [`named`], so that the folder is worth reading.
fn is_named_after(path: &Path, folder: &Path) -> bool {
    let [name, folder] = [path, folder].map(|path| path.file_name().unwrap_or_default().to_string_lossy());
    name.strip_prefix(&*folder).is_some_and(|rest| rest.starts_with('_'))
}

fn only(path: &Path, mut volumes: Vec<Found>) -> Result<Volume, DicomError> {
    if volumes.len() > 1 {
        let name = |found: &Found| found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names = volumes.iter().map(name).collect::<Vec<_>>().join(", ");
        return Err(DicomError::Several { path: path.into(), count: volumes.len(), names });
    }
    volumes.remove(0).volume
}

/// The volume of a single file.
fn of_file(path: &Path) -> Result<Volume, DicomError> {
    let mut parts = split(slices(path)?);
    match parts.len() {
        0 => Err(DicomError::file(path, "it has no image")),
        1 => Volume::new(&parts.remove(0).slices, path),
        count => {
            let names = parts.iter().map(|part| part.labels.join("_")).collect::<Vec<_>>().join(", ");
            Err(DicomError::file(path, format!("{count} volumes ({names}); give its folder")))
        }
    }
}
