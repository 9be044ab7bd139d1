//! The image files of an input.

use std::path::{Path, PathBuf};

use super::left_out::{LeftOut, Reason};
use super::names::{is_labels_of_one_of, stem};
use super::{Entries, MOST_LEVELS, entries, list, metadata, parent};
use crate::dicom::{self, DicomError, Found};
use crate::volume::VolumeError;

/// Image folders of datasets; the first that exists is used.
const IMAGE_FOLDERS: [&str; 4] = ["imagesTr", "imagesTs", "img", "images"];
/// Folders of masks, one per class, beside their image.
pub(super) const MASK_FOLDERS: [&str; 2] = ["segmentations", "masks"];

/// The image files, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Images {
    pub files: Vec<PathBuf>,
    /// Unusable entries of a list and DICOM series: a name, and the reason.
    pub unusable: Vec<(String, VolumeError)>,
    pub left_out: Vec<LeftOut>,
}

impl Images {
    pub fn collect(input: &Path) -> Result<Self, VolumeError> {
        let mut images = Self::default();
        images.add_input(input, MOST_LEVELS)?;
        if !images.files.is_empty() {
            return Ok(images);
        }
        super::left_out::log(&images.left_out);
        Err(match images.unusable.len() {
            0 => VolumeError::NoCases { path: input.into() },
            1 => images.unusable.remove(0).1,
            count => {
                let reasons: Vec<String> =
                    images.unusable.iter().map(|(_, error)| error.to_string()).collect();
                VolumeError::List {
                    list: input.into(),
                    reason: format!("{count} entries: {}", reasons.join("; ")),
                }
            }
        })
    }

    /// `levels` limits the depth of lists in lists and of nested folders.
    fn add_input(&mut self, input: &Path, levels: usize) -> Result<(), VolumeError> {
        let is_list = input.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
        if is_dicom_part(input)? {
            self.files.push(input.into());
            Ok(())
        } else if metadata(input)?.is_dir() {
            self.add_dataset(input)
        } else if input.file_name().is_some_and(|name| name == "dataset.json") {
            self.add_dataset(&parent(input))
        } else if is_list {
            self.add_list(input, levels)
        } else {
            self.files.push(input.into());
            Ok(())
        }
    }

    fn add_dataset(&mut self, root: &Path) -> Result<(), VolumeError> {
        let mut parts = IMAGE_FOLDERS.iter().map(|name| root.join(name)).filter(|folder| folder.is_dir());
        let Some(part) = parts.next() else { return self.add_folder(root, MOST_LEVELS) };
        // On some file systems `images` and `Images` are the same folder.
        let others = parts.map(|path| LeftOut { path, reason: Reason::OtherPart });
        self.left_out.extend(others);
        self.left_out_formats(&entries(root)?);
        self.add_folder(&part, MOST_LEVELS)
    }

    /// Images of a folder or, if it has none, of its subfolders.
    fn add_folder(&mut self, folder: &Path, levels: usize) -> Result<(), VolumeError> {
        let found = entries(folder)?;
        let before = self.files.len();
        if found.volumes.is_empty() && self.add_dicom(folder)? {
            self.leave_out_folders(found.folders, Reason::BesideVolumes);
            return Ok(());
        }
        self.left_out_formats(&found);
        let stems: Vec<String> = found.volumes.iter().map(|path| stem(path)).collect();
        for (path, name) in found.volumes.into_iter().zip(&stems) {
            match not_an_image(name, &stems) {
                Some(reason) => self.left_out.push(LeftOut { path, reason }),
                None => self.files.push(path),
            }
        }
        if self.files.len() > before {
            self.leave_out_folders(found.folders, Reason::BesideVolumes);
            return Ok(());
        } else if levels == 0 {
            return Ok(());
        }
        let (of_labels, others): (Vec<_>, Vec<_>) =
            found.folders.into_iter().partition(|folder| holds_labels(folder));
        for folder in others {
            self.add_folder(&folder, levels - 1)?;
        }
        if self.files.len() > before {
            self.leave_out_folders(of_labels, Reason::LabelFolder);
            return Ok(());
        }
        for folder in of_labels {
            self.add_folder(&folder, levels - 1)?; // nothing else is there: these must be the images
        }
        Ok(())
    }

    /// The DICOM volumes of a folder; false if it has none. Those that cannot be used do not concern the others.
    fn add_dicom(&mut self, folder: &Path) -> Result<bool, VolumeError> {
        let folder = match folder.file_name() {
            Some(_) => folder.to_path_buf(),
            None => folder.canonicalize().unwrap_or_else(|_| folder.into()), // its name is that of the case
        };
        let study = match dicom::study(&folder) {
            Ok(study) => study,
            Err(error @ DicomError::Io { .. }) => return Err(error.into()),
            Err(error) => {
                self.unusable.push((stem(&folder), error.into()));
                return Ok(true);
            }
        };
        let others = study.others.into_iter().map(|path| LeftOut { path, reason: Reason::NoImage });
        self.left_out.extend(others);
        let is_found = !study.volumes.is_empty();
        for Found { path, volume } in study.volumes {
            match volume {
                Ok(_) => self.files.push(path),
                Err(error) => self.unusable.push((stem(&path), error.into())),
            }
        }
        Ok(is_found)
    }

    /// Records the folders that contain volumes as left out.
    fn leave_out_folders(&mut self, folders: Vec<PathBuf>, reason: Reason) {
        let with_volumes = folders.into_iter().filter(|folder| has_volumes(folder, MOST_LEVELS));
        self.left_out.extend(with_volumes.map(|path| LeftOut { path, reason }));
    }

    fn left_out_formats(&mut self, found: &Entries) {
        let formats = found.other_formats.iter().cloned();
        self.left_out.extend(formats.map(|path| LeftOut { path, reason: Reason::OtherFormat }));
    }

    fn add_list(&mut self, list: &Path, levels: usize) -> Result<(), VolumeError> {
        let entries = list::read(list)?;
        if entries.is_empty() {
            return Err(VolumeError::List { list: list.into(), reason: "it names no volume".into() });
        }
        for entry in entries {
            let before = self.files.len();
            let outcome = match levels {
                0 => Err("lists in lists, too deep".to_owned()),
                _ => self.add_entry(&parent(list), &entry, levels - 1),
            };
            let reason = match outcome {
                Ok(()) if self.files.len() > before => continue,
                Ok(()) => "no .nii or .nii.gz volume and no DICOM series in it".to_owned(),
                Err(reason) => reason,
            };
            let written = entry.text.to_string_lossy();
            let reason = format!("line {}, `{written}`: {reason}", entry.line);
            let name = stem(Path::new(written.rsplit(['/', '\\']).next().unwrap_or(&written)));
            self.unusable.push((name, VolumeError::List { list: list.into(), reason }));
        }
        Ok(())
    }

    /// A line of a list: a folder, a volume, or a volume without its extension.
    fn add_entry(&mut self, folder: &Path, entry: &list::Entry, levels: usize) -> Result<(), String> {
        let path = folder.join(&entry.text);
        if path.exists() || matches!(is_dicom_part(&path), Ok(true)) {
            return self.add_input(&path, levels).map_err(|error| error.to_string());
        }
        let with_ending = |ending: &str| {
            let mut name = path.as_os_str().to_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        match [".nii.gz", ".nii"].map(with_ending).into_iter().find(|volume| volume.is_file()) {
            Some(volume) => {
                self.files.push(volume);
                Ok(())
            }
            None if entry.text.to_string_lossy().contains('\\') => {
                Err("no such file (folders are separated by / here)".into())
            }
            None => Err("no such file".into()),
        }
    }
}

/// Whether this is the path of one of several volumes of a DICOM folder.
fn is_dicom_part(path: &Path) -> Result<bool, VolumeError> {
    Ok(!path.exists() && dicom::locate(path)?.is_some())
}

/// Excludes labels of a volume beside them, and ACDC's cine series (`patient001_4d` beside `patient001_frame01`).
fn not_an_image(stem: &str, beside: &[String]) -> Option<Reason> {
    let is_film =
        stem.strip_suffix("_4d").filter(|patient| patient.starts_with("patient")).is_some_and(|patient| {
            beside
                .iter()
                .any(|other| other.strip_prefix(patient).is_some_and(|rest| rest.starts_with("_frame")))
        });
    if is_film {
        Some(Reason::Film)
    } else if is_labels_of_one_of(stem, beside) {
        Some(Reason::LabelsOfAVolume)
    } else {
        None
    }
}

fn holds_labels(folder: &Path) -> bool {
    let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.starts_with("label") || MASK_FOLDERS.contains(&&*name)
}

fn has_volumes(folder: &Path, levels: usize) -> bool {
    // A folder that cannot be read is not part of the input.
    let Ok(found) = entries(folder) else { return false };
    !found.volumes.is_empty()
        || (levels > 0 && found.folders.iter().any(|folder| has_volumes(folder, levels - 1)))
}
