//! The labels of each case.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::images::MASK_FOLDERS;
use super::names::{label_names, stem};
use super::{CaseFiles, MOST_LEVELS, entries, folder_name, identity, metadata, parent};
use crate::volume::VolumeError;
use crate::volume::label_files::{LabelFiles, MaskFile};

/// Folders of labels in datasets.
const LABEL_FOLDERS: [&str; 4] = ["labelsTr", "labelsTs", "label", "labels"];

/// The label folders of a dataset, or the folder itself.
pub(super) fn label_folders(root: &Path) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> =
        LABEL_FOLDERS.iter().map(|name| root.join(name)).filter(|folder| folder.is_dir()).collect();
    if folders.is_empty() { vec![root.into()] } else { folders }
}

/// Volumes of a label folder, by name.
pub(super) struct LabelIndex {
    root: PathBuf,
    by_name: HashMap<String, Vec<PathBuf>>,
}

impl LabelIndex {
    pub fn new(root: &Path) -> Result<Self, VolumeError> {
        let mut by_name: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut waiting = Vec::new();
        if metadata(root)?.is_dir() {
            waiting.extend(label_folders(root).into_iter().map(|folder| (folder, 0)));
        } else {
            by_name.entry(stem(root)).or_default().push(root.into());
        }
        while let Some((folder, level)) = waiting.pop() {
            let found = entries(&folder)?;
            for volume in found.volumes {
                by_name.entry(stem(&volume)).or_default().push(volume);
            }
            if level < MOST_LEVELS {
                waiting.extend(found.folders.into_iter().map(|folder| (folder, level + 1)));
            }
        }
        Ok(Self { root: root.into(), by_name })
    }

    /// Finds the labels of every case; reports cases with none, or with several candidates.
    pub fn add_to(&self, cases: &mut [CaseFiles], without: &mut Vec<(String, VolumeError)>) {
        let images: HashSet<PathBuf> =
            cases.iter().flat_map(|case| &case.images).map(|path| identity(path)).collect();
        let is_single = cases.len() == 1;
        let folder = |case: &CaseFiles| case.images.first().map(|path| parent(&identity(path)));
        let mut in_folder: HashMap<Option<PathBuf>, usize> = HashMap::new();
        cases.iter().for_each(|case| *in_folder.entry(folder(case)).or_default() += 1);
        for case in cases {
            let is_alone = in_folder.get(&folder(case)) == Some(&1);
            match self.find(case, &images, [is_single, is_alone]) {
                Ok(labels) => case.labels = Some(labels),
                Err(error) => without.push((case.case_id.clone(), error)),
            }
        }
    }

    /// The labels of a case. A single case may have a single label file of any name. `images` are those of all
    /// cases.
    fn find(
        &self,
        case: &CaseFiles,
        images: &HashSet<PathBuf>,
        [is_single, is_alone]: [bool; 2],
    ) -> Result<LabelFiles, VolumeError> {
        let image = case.images.first().cloned().unwrap_or_default();
        let names: HashSet<String> =
            [&*case.case_id, &*stem(&image)].into_iter().flat_map(label_names).collect();
        let mut by_distance: BTreeMap<usize, Vec<&PathBuf>> = BTreeMap::new();
        for path in names.iter().filter_map(|name| self.by_name.get(name)).flatten() {
            if !images.contains(&identity(path)) {
                by_distance.entry(distance(&image, path)).or_default().push(path);
            }
        }
        match by_distance.into_values().next().as_deref() {
            Some([path]) => Ok(LabelFiles::Volume((*path).clone())),
            Some(paths) => {
                let mut paths: Vec<PathBuf> = paths.iter().map(|&path| path.clone()).collect();
                paths.sort();
                Err(VolumeError::AmbiguousLabels { case: case.case_id.clone(), paths })
            }
            None if is_single && self.root.is_file() && !images.contains(&identity(&self.root)) => {
                Ok(LabelFiles::Volume(self.root.clone()))
            }
            None if self.root.is_dir() => self.find_masks(case, &image, [is_single, is_alone]),
            None => Err(VolumeError::MissingLabels { folder: self.root.clone(), case: case.case_id.clone() }),
        }
    }
}

impl LabelIndex {
    /// The folder with the masks of a case, one per class: `segmentations` or `masks` beside its image, or in a
    /// folder with its name in the labels' folder, or that folder itself; for a single case also the labels' folder
    /// itself if it has such a name. If the image's folder also has images of other cases (`is_alone` is false),
    /// masks beside the image are not used.
    fn find_masks(
        &self,
        case: &CaseFiles,
        image: &Path,
        [is_single, is_alone]: [bool; 2],
    ) -> Result<LabelFiles, VolumeError> {
        let own = parent(&identity(image));
        let is_ours = self.root.canonicalize().is_ok_and(|root| own.starts_with(root));
        let mut names: HashSet<String> = [case.case_id.clone(), stem(image)].into();
        if is_alone {
            names.insert(folder_name(image));
        }
        let named = names.iter().filter(|name| !name.is_empty()).map(|name| self.root.join(name));
        let mut folders: Vec<PathBuf> = if is_ours && is_alone { vec![parent(image)] } else { Vec::new() };
        folders.extend(named);
        let mut candidates: Vec<PathBuf> =
            folders.iter().flat_map(|folder| MASK_FOLDERS.map(|name| folder.join(name))).collect();
        candidates.extend(folders);
        let is_named = folder_name(&self.root.join("_")).to_lowercase();
        if is_single && MASK_FOLDERS.contains(&&*is_named) {
            candidates.push(self.root.clone());
        }
        let mut found: BTreeMap<PathBuf, Vec<MaskFile>> = BTreeMap::new();
        for folder in candidates {
            let Ok(folder) = folder.canonicalize() else { continue };
            if folder != own && folder.is_dir() {
                let masks = masks_in(&folder)?;
                if !masks.is_empty() {
                    found.insert(folder, masks);
                }
            }
        }
        let paths: Vec<PathBuf> = found.keys().cloned().collect();
        match (found.into_values().next(), paths.len()) {
            (Some(masks), 1) => Ok(LabelFiles::Masks(masks)),
            (Some(_), _) => Err(VolumeError::AmbiguousLabels { case: case.case_id.clone(), paths }),
            (None, _) => {
                Err(VolumeError::MissingLabels { folder: self.root.clone(), case: case.case_id.clone() })
            }
        }
    }
}

/// The volumes of a folder as masks, without values yet.
pub(super) fn masks_in(folder: &Path) -> Result<Vec<MaskFile>, VolumeError> {
    let volumes = entries(folder)?.volumes.into_iter();
    Ok(volumes.map(|path| MaskFile { name: stem(&path), value: 0, path }).collect())
}

/// Closeness of labels to an image: beside it, in the corresponding folder (`labelsTr` for `imagesTr`), in a folder
/// of the same name, elsewhere.
fn distance(image: &Path, labels: &Path) -> usize {
    let (images, labels) = (parent(&identity(image)), parent(&identity(labels)));
    let name = |folder: &Path| {
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (of_images, of_labels) = (name(&images), name(&labels));
    let is_counterpart = ["images", "image", "img"]
        .iter()
        .any(|word| of_images.contains(word) && label_folder_names(&of_images, word).contains(&of_labels));
    if images == labels {
        0
    } else if is_counterpart && images.parent() == labels.parent() {
        1
    } else if of_images == of_labels {
        2
    } else {
        3
    }
}

fn label_folder_names(images: &str, word: &str) -> [String; 2] {
    ["labels", "label"].map(|labels| images.replacen(word, labels, 1))
}
