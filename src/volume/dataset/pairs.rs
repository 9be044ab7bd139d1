//! Pairs truth and predictions by their names. The truth defines the cases.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::images::MASK_FOLDERS;
use super::labels::{label_folders, masks_in};
use super::left_out::{self, LeftOut, Reason};
use super::names::{image_names, is_labels_of_one_of, label_names, natural_order, stem};
use super::{MOST_LEVELS, entries, folder_name, identity, metadata, parent};
use crate::volume::{LabelFiles, VolumeError};

/// Endings that only the names of predictions have.
const PREDICTION_ENDINGS: [&str; 3] = ["_pred", "_prediction", "_0000"];

/// Folder of images beside their label maps.
const IMAGE_FOLDER: &str = "images";

/// A case to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Name of the case: that of its prediction, or of its truth if there is no prediction.
    pub case_id: String,
    /// True labels.
    pub truth: LabelFiles,
    /// Predicted labels; `None` if they are missing.
    pub prediction: Option<LabelFiles>,
}

/// All cases of a truth.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// In natural order of their names.
    pub pairs: Vec<Pair>,
    /// Predictions without a case in the truth.
    pub unknown: Vec<PathBuf>,
    /// Volumes in the truth's folder that are images, and folders of images beside label maps.
    pub left_out: Vec<LeftOut>,
}

impl Pairs {
    /// Logs what is not used, and predictions without truth.
    pub fn log(&self) {
        left_out::log(&self.left_out);
        for path in &self.unknown {
            tracing::warn!("{}: the truth has no such case; not evaluated", path.display());
        }
    }
}

/// The labels of a case: a file, or a folder with a mask per class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    path: PathBuf,
    /// Name of the case.
    name: String,
    /// Its folder.
    folder: String,
    is_masks: bool,
}

impl Item {
    fn volume(path: PathBuf) -> Self {
        Self { name: stem(&path), folder: folder_name(&path), path, is_masks: false }
    }

    /// The folder `case` or `case/segmentations`.
    fn masks(path: PathBuf) -> Self {
        let is_within = MASK_FOLDERS.contains(&&*last_name(&path));
        let case = if is_within { parent(&path) } else { path.clone() };
        Self { name: last_name(&case), folder: folder_name(&case), path, is_masks: true }
    }

    fn labels(&self) -> Result<LabelFiles, VolumeError> {
        match self.is_masks {
            true => Ok(LabelFiles::Masks(masks_in(&self.path)?)),
            false => Ok(LabelFiles::Volume(self.path.clone())),
        }
    }
}

fn last_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Finds the prediction of every case of the truth. Each argument is a file or a folder, which is searched
/// recursively; all volumes in it are labels, whatever their names. Two files belong together if their names are
/// equal, or differ only by `_gt`, `_seg` or `_label`, by `label` instead of `img`, or by the folder's name as
/// prefix. A folder with several masks, one per class, is a case with the name of the folder, or of its parent if
/// the folder is `segmentations` or `masks`. A single prediction is compared with the truth of its name; a single
/// prediction and a single truth belong together.
///
/// # Errors
/// [`VolumeError::Io`], [`VolumeError::NoCases`]; [`VolumeError::AmbiguousLabels`] if several files could be a
/// case's prediction, or one file could belong to several cases; [`VolumeError::MissingLabels`] if a single
/// prediction has no truth.
pub fn pair(truth: &Path, predictions: &Path) -> Result<Pairs, VolumeError> {
    let mut found = Pairs::default();
    let is_one_prediction = !metadata(predictions)?.is_dir();
    let predicted = if is_one_prediction {
        vec![predictions.into()]
    } else {
        files_below(predictions, &mut found.left_out)?
    };
    let truths = truth_items(truth, &predicted, &mut found.left_out)?;
    let candidates = prediction_items(predictions, predicted, &truths);
    let no_cases = |path: &Path| VolumeError::NoCases { path: path.into() };
    if truths.is_empty() {
        return Err(no_cases(truth));
    } else if candidates.is_empty() {
        return Err(no_cases(predictions));
    }
    if is_one_prediction && !metadata(truth)?.is_dir() {
        let [truth, prediction] = [truth, predictions].map(|path| LabelFiles::Volume(path.into()));
        let pair = Pair { case_id: stem(predictions), truth, prediction: Some(prediction) };
        return Ok(Pairs { pairs: vec![pair], ..found });
    }
    if identity(truth) == identity(predictions) {
        tracing::warn!("{}: predictions and truth are the same", truth.display());
    }
    let index = Index::new(&candidates);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    truths.iter().for_each(|item| *counts.entry(&item.name).or_default() += 1);
    let mut judged: BTreeMap<&Item, &Item> = BTreeMap::new();
    for item in &truths {
        let is_unique = counts.get(&*item.name) == Some(&1);
        let prediction = index.find(item, is_unique)?;
        if let Some(prediction) = prediction
            && let Some(other) = judged.insert(prediction, item)
        {
            let paths = vec![other.path.clone(), item.path.clone()];
            return Err(VolumeError::AmbiguousLabels { case: prediction.name.clone(), paths });
        }
        if is_one_prediction && prediction.is_none() {
            continue;
        }
        let name = prediction.map_or(&item.name, |prediction| &prediction.name);
        let case_id = match is_unique || *name != item.name {
            true => name.clone(),
            false => format!("{}_{name}", item.folder),
        };
        let prediction = prediction.map(Item::labels).transpose()?;
        found.pairs.push(Pair { case_id, truth: item.labels()?, prediction });
    }
    if is_one_prediction && found.pairs.is_empty() {
        return Err(VolumeError::MissingLabels { folder: truth.into(), case: stem(predictions) });
    }
    found.pairs.sort_by(|a, b| natural_order(&a.case_id, &b.case_id));
    let unknown = candidates.iter().filter(|item| !judged.contains_key(item));
    found.unknown = unknown.map(|item| item.path.clone()).collect();
    Ok(found)
}

/// The labels in a file, folder or dataset. If some volumes of a folder are named as labels of others, the others
/// are images. A folder with the masks of a case is one item.
fn truth_items(
    root: &Path,
    predicted: &[PathBuf],
    left_out: &mut Vec<LeftOut>,
) -> Result<Vec<Item>, VolumeError> {
    if !metadata(root)?.is_dir() {
        return Ok(vec![Item::volume(root.into())]);
    }
    let mut files = Vec::new();
    for folder in label_folders(root) {
        files.extend(files_below(&folder, left_out)?);
    }
    let by_folder = by_folder(files);
    let predicted: HashSet<String> = predicted.iter().map(|path| stem(path)).collect();
    let mut folders_with: HashMap<(PathBuf, &str), usize> = HashMap::new();
    for (folder, stems) in by_folder.iter().map(|(folder, (_, stems))| (folder, stems)) {
        for stem in stems {
            *folders_with.entry((parent(folder), stem)).or_default() += 1;
        }
    }
    let is_called_so = |folder: &Path| folder != root && MASK_FOLDERS.contains(&&*last_name(folder));
    let have_masks: HashSet<PathBuf> =
        by_folder.keys().filter(|folder| is_called_so(folder)).map(|folder| parent(folder)).collect();
    let mut items = Vec::new();
    for (folder, (files, stems)) in &by_folder {
        let (labels, images): (Vec<&PathBuf>, Vec<&PathBuf>) =
            files.iter().partition(|path| is_labels_of_one_of(&stem(path), stems));
        let is_shared =
            |stem: &String| folders_with.get(&(parent(folder), stem)).is_some_and(|&count| count > 1);
        let has_masks =
            || stems.len() > 1 && (predicted.contains(&last_name(folder)) || stems.iter().any(is_shared));
        if is_called_so(folder) || (folder != root && labels.is_empty() && has_masks()) {
            items.push(Item::masks(folder.clone()));
        } else if labels.is_empty() && !have_masks.contains(folder) {
            items.extend(images.into_iter().cloned().map(Item::volume));
        } else {
            items.extend(labels.into_iter().cloned().map(Item::volume));
            let images = images.into_iter().cloned();
            left_out.extend(images.map(|path| LeftOut { path, reason: Reason::HasLabelsBeside }));
        }
    }
    Ok(items)
}

/// Files, and folders named as a case whose truth is a folder of masks.
fn prediction_items(root: &Path, files: Vec<PathBuf>, truths: &[Item]) -> Vec<Item> {
    let cases: HashSet<&str> = truths.iter().filter(|item| item.is_masks).map(|item| &*item.name).collect();
    let mut items = Vec::new();
    for (folder, (files, _)) in by_folder(files) {
        let masks = Item::masks(folder);
        if masks.path != root && cases.contains(&*masks.name) {
            items.push(masks);
        } else {
            items.extend(files.into_iter().map(Item::volume));
        }
    }
    items
}

/// The files of each folder, with their names.
fn by_folder(files: Vec<PathBuf>) -> BTreeMap<PathBuf, (Vec<PathBuf>, Vec<String>)> {
    let mut folders: BTreeMap<PathBuf, (Vec<PathBuf>, Vec<String>)> = BTreeMap::new();
    for path in files {
        let (files, stems) = folders.entry(parent(&path)).or_default();
        stems.push(stem(&path));
        files.push(path);
    }
    folders
}

/// All volumes, except those of a folder `images` beside volumes: these are their images, as a live run leaves them.
fn files_below(root: &Path, left_out: &mut Vec<LeftOut>) -> Result<Vec<PathBuf>, VolumeError> {
    let (mut files, mut waiting) = (Vec::new(), vec![(root.to_path_buf(), 0)]);
    while let Some((folder, level)) = waiting.pop() {
        let found = entries(&folder)?;
        let has_volumes = !found.volumes.is_empty();
        files.extend(found.volumes);
        let (images, others): (Vec<_>, Vec<_>) =
            found.folders.into_iter().partition(|folder| has_volumes && last_name(folder) == IMAGE_FOLDER);
        left_out.extend(images.into_iter().map(|path| LeftOut { path, reason: Reason::HasLabelsBeside }));
        if level < MOST_LEVELS {
            waiting.extend(others.into_iter().map(|folder| (folder, level + 1)));
        }
    }
    files.sort();
    Ok(files)
}

/// Predictions by name.
struct Index<'a> {
    by_name: HashMap<&'a str, Vec<&'a Item>>,
}

impl<'a> Index<'a> {
    fn new(predictions: &'a [Item]) -> Self {
        let mut by_name: HashMap<&str, Vec<&Item>> = HashMap::new();
        for item in predictions {
            by_name.entry(&item.name).or_default().push(item);
        }
        Self { by_name }
    }

    /// The prediction of a case. If its name is not unique in the truth, the folder's name must match as well.
    fn find(&self, truth: &Item, is_unique: bool) -> Result<Option<&'a Item>, VolumeError> {
        let (name, folder, own) = (&truth.name, &truth.folder, identity(&truth.path));
        let images = image_names(name);
        let all: Vec<String> = std::iter::once(name.clone()).chain(images.iter().cloned()).collect();
        let with_ending = |name: &String| PREDICTION_ENDINGS.map(|ending| format!("{name}{ending}"));
        let others = all.iter().flat_map(|name| label_names(name).into_iter().chain(with_ending(name)));
        let in_folder = all.iter().map(|name| format!("{folder}_{name}"));
        // The best matching name first.
        let by_name: [Vec<String>; 4] =
            [in_folder.collect(), vec![name.clone()], images.clone(), others.collect()];
        for (nearness, names) in by_name.into_iter().enumerate() {
            let mut items: Vec<&Item> =
                names.iter().filter_map(|name| self.by_name.get(&**name)).flatten().copied().collect();
            items.sort();
            items.dedup();
            items.retain(|item| identity(&item.path) != own);
            if items.len() > 1 || (!is_unique && nearness > 0) {
                let beside: Vec<&Item> =
                    items.iter().copied().filter(|item| item.folder == *folder).collect();
                if !is_unique || beside.len() == 1 {
                    items = beside;
                }
            }
            match *items {
                [] => {}
                [item] => return Ok(Some(item)),
                _ => {
                    let paths = items.into_iter().map(|item| item.path.clone()).collect();
                    return Err(VolumeError::AmbiguousLabels { case: name.clone(), paths });
                }
            }
        }
        // Predictions may be the truth itself, for a check.
        let same = self.by_name.get(&**name).into_iter().flatten().find(|item| identity(&item.path) == own);
        Ok(same.copied())
    }
}
