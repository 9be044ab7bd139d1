//! Which files make which case: single files, folders, lists, and the layouts of the Medical Segmentation
//! Decathlon (`imagesTr`, `labelsTr`, 4D files), nnU-Net (`<case>_0000.nii.gz` for each modality), ACDC
//! (`patient001/patient001_frame01.nii.gz` with `_gt`) and Synapse (`img0001.nii.gz`, `label0001.nii.gz`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::VolumeError;
use super::names::{is_volume, natural_order, split_modality, stem};

/// Folders in folders are searched down to here.
const MOST_LEVELS: usize = 6;

/// The files of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseFiles {
    /// Name of the case and of its results.
    pub case_id: String,
    /// One file a modality, or one 4D file with all of them.
    pub images: Vec<PathBuf>,
    /// Label volume.
    pub labels: Option<PathBuf>,
}

/// Finds the cases in `input`: a volume, a folder of a known layout, a `dataset.json`, or a `.txt` file with one
/// path of a volume or folder a line, relative to the list's folder. With `labels` (a folder, which may be
/// `input` itself, or one file) every case must have its labels. Cases come in natural order of their names.
///
/// # Errors
/// [`VolumeError::Io`], [`VolumeError::NoCases`], [`VolumeError::ModalityCount`], [`VolumeError::MissingLabels`] and
/// [`VolumeError::DuplicateCase`].
pub fn discover(
    input: &Path,
    labels: Option<&Path>,
    modalities: usize,
) -> Result<Vec<CaseFiles>, VolumeError> {
    let mut images = Vec::new();
    collect_input(input, &mut images)?;
    if images.is_empty() {
        return Err(VolumeError::NoCases { path: input.into() });
    }
    let mut cases = group(images, modalities)?;
    make_unique(&mut cases);
    cases.sort_by(|a, b| natural_order(&a.case_id, &b.case_id));
    for pair in cases.windows(2) {
        if pair[0].case_id == pair[1].case_id {
            let (path, case) = (pair[1].images[0].clone(), pair[1].case_id.clone());
            return Err(VolumeError::DuplicateCase { path, case });
        }
    }
    if let Some(folder) = labels {
        let index = LabelIndex::new(folder)?;
        let is_single = cases.len() == 1;
        for case in &mut cases {
            case.labels = Some(index.find(case, is_single)?);
        }
    }
    Ok(cases)
}

fn metadata(path: &Path) -> Result<fs::Metadata, VolumeError> {
    fs::metadata(path).map_err(|source| VolumeError::Io { path: path.into(), source })
}

fn collect_input(input: &Path, images: &mut Vec<PathBuf>) -> Result<(), VolumeError> {
    let extension = input.extension().and_then(|extension| extension.to_str());
    if metadata(input)?.is_dir() {
        let folder = ["imagesTr", "imagesTs", "img", "images"].iter().map(|name| input.join(name));
        let folder = folder.into_iter().find(|folder| folder.is_dir()).unwrap_or_else(|| input.into());
        collect_images(&folder, MOST_LEVELS, images)
    } else if input.file_name().is_some_and(|name| name == "dataset.json") {
        collect_input(&parent(input), images)
    } else if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
        let text =
            fs::read_to_string(input).map_err(|source| VolumeError::Io { path: input.into(), source })?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            collect_line(&parent(input).join(line), images)?;
        }
        Ok(())
    } else {
        images.push(input.into());
        Ok(())
    }
}

/// A line of a list: a folder, a volume, or a volume without its ending.
fn collect_line(path: &Path, images: &mut Vec<PathBuf>) -> Result<(), VolumeError> {
    let with_ending = |ending: &str| {
        let mut name = path.as_os_str().to_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    if !path.exists()
        && let Some(volume) = [".nii.gz", ".nii"].map(with_ending).into_iter().find(|volume| volume.is_file())
    {
        images.push(volume);
        return Ok(());
    }
    collect_input(path, images)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Volumes and folders directly in a folder, sorted, without hidden ones (macOS leaves `._` files).
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), VolumeError> {
    let io = |source| VolumeError::Io { path: folder.into(), source };
    let (mut volumes, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        } else if path.is_dir() {
            folders.push(path);
        } else if is_volume(&name) {
            volumes.push(path);
        }
    }
    volumes.sort();
    folders.sort();
    Ok((volumes, folders))
}

/// Images of a folder or, if it has none, of its folders; labels are left out.
fn collect_images(folder: &Path, levels: usize, images: &mut Vec<PathBuf>) -> Result<(), VolumeError> {
    let (volumes, folders) = entries(folder)?;
    let before = images.len();
    images.extend(volumes.into_iter().filter(|path| is_image(path)));
    if images.len() > before || levels == 0 {
        return Ok(());
    }
    for folder in folders {
        let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        if !name.starts_with("label") {
            collect_images(&folder, levels - 1, images)?;
        }
    }
    Ok(())
}

/// Neither labels (`_gt`, `label0001`) nor ACDC's films (`patient001_4d`).
fn is_image(path: &Path) -> bool {
    let name = stem(path);
    let is_film = name.starts_with("patient") && name.ends_with("_4d");
    let is_label = name.ends_with("_gt") || name.ends_with("_seg") || name.starts_with("label");
    !is_film && !is_label
}

/// Cases from files: `<case>_0000`, `<case>_0001`, … in one folder are modalities of one case, all others are cases.
fn group(images: Vec<PathBuf>, modalities: usize) -> Result<Vec<CaseFiles>, VolumeError> {
    let mut groups: BTreeMap<(PathBuf, String), BTreeMap<usize, PathBuf>> = BTreeMap::new();
    let mut cases = Vec::new();
    let single = |path: PathBuf| CaseFiles { case_id: stem(&path), images: vec![path], labels: None };
    for path in images {
        match split_modality(&stem(&path)) {
            Some((case, modality)) => {
                groups.entry((parent(&path), case.into())).or_default().insert(modality, path);
            }
            None => cases.push(single(path)),
        }
    }
    for ((_, case_id), files) in groups {
        if !files.contains_key(&0) {
            cases.extend(files.into_values().map(single)); // numbered cases, not modalities
            continue;
        }
        let found = files.len();
        let images: Vec<PathBuf> = files.into_values().collect();
        if found != 1 && found != modalities {
            let path = images[0].clone();
            return Err(VolumeError::ModalityCount { path, found, expected: modalities });
        }
        cases.push(CaseFiles { case_id, images, labels: None });
    }
    Ok(cases)
}

/// Puts the folder's name before names that come more than once (`a/image.nii`, `b/image.nii`).
fn make_unique(cases: &mut [CaseFiles]) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for case in cases.iter() {
        *counts.entry(case.case_id.clone()).or_default() += 1;
    }
    for case in cases.iter_mut().filter(|case| counts.get(&case.case_id).is_some_and(|&count| count > 1)) {
        let folder = case.images.first().map(|path| parent(path)).unwrap_or_default();
        if let Some(name) = folder.file_name() {
            case.case_id = format!("{}_{}", name.to_string_lossy(), case.case_id);
        }
    }
}

/// Volumes of a label folder by name.
struct LabelIndex {
    root: PathBuf,
    by_name: HashMap<String, Vec<PathBuf>>,
}

impl LabelIndex {
    fn new(root: &Path) -> Result<Self, VolumeError> {
        let mut by_name: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut waiting = vec![(root.to_path_buf(), 0)];
        if !metadata(root)?.is_dir() {
            by_name.entry(stem(root)).or_default().push(root.into());
            waiting.clear();
        } else if let Some(folder) = ["labelsTr", "labelsTs", "label", "labels"]
            .map(|name| root.join(name))
            .into_iter()
            .find(|f| f.is_dir())
        {
            waiting = vec![(folder, 0)];
        }
        while let Some((folder, level)) = waiting.pop() {
            let (volumes, folders) = entries(&folder)?;
            for volume in volumes {
                by_name.entry(stem(&volume)).or_default().push(volume);
            }
            if level < MOST_LEVELS {
                waiting.extend(folders.into_iter().map(|folder| (folder, level + 1)));
            }
        }
        Ok(Self { root: root.into(), by_name })
    }

    /// The labels of a case; a single case may have a single label file of any name.
    fn find(&self, case: &CaseFiles, is_single: bool) -> Result<PathBuf, VolumeError> {
        let image = case.images.first().cloned().unwrap_or_default();
        let image_name = stem(&image);
        let id = split_modality(&image_name).map_or(image_name.as_str(), |(case, _)| case);
        let mut names: Vec<String> =
            ["_gt", "_seg", "_label", ""].iter().map(|ending| format!("{id}{ending}")).collect();
        names.push(image_name.clone());
        names.extend(
            ["img", "image"]
                .iter()
                .filter(|&&from| id.contains(from))
                .map(|from| id.replacen(from, "label", 1)),
        );
        let candidates = names.iter().filter_map(|name| self.by_name.get(name)).flatten();
        let candidates: Vec<&PathBuf> = candidates.filter(|path| !case.images.contains(path)).collect();
        let folder = parent(&image).file_name().map(ToOwned::to_owned);
        let beside = candidates.iter().find(|path| parent(path).file_name().map(ToOwned::to_owned) == folder);
        if let Some(&path) = beside.or(candidates.first()) {
            return Ok(path.clone());
        }
        if is_single && self.root.is_file() && !case.images.contains(&self.root) {
            return Ok(self.root.clone());
        }
        Err(VolumeError::MissingLabels { folder: self.root.clone(), case: case.case_id.clone() })
    }
}
