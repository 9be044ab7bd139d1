//! Groups files into cases: nnU-Net's modalities, numbered patients, repeated names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::names::{split_modality, stem};
use super::{CaseFiles, folder_name, identity, parent};
use crate::volume::VolumeError;

/// Volumes `<prefix>_<number>` of a folder, by number.
type Series = BTreeMap<(PathBuf, String), BTreeMap<usize, PathBuf>>;

/// Groups files into cases: `<case>_0000`, `<case>_0001`, … in one folder are the modalities of a case; every other
/// file is a case. If the model has one modality and all numbered files have the same prefix, each is a patient;
/// this is noted.
pub(super) fn group(
    images: Vec<PathBuf>,
    modalities: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<CaseFiles>, VolumeError> {
    let mut seen = HashSet::new();
    let mut series = Series::new();
    let mut cases = Vec::new();
    let single = |path: PathBuf| CaseFiles { case_id: stem(&path), images: vec![path], labels: None };
    for path in images {
        if !seen.insert(identity(&path)) {
            return Err(VolumeError::Twice { case: stem(&path), path });
        }
        let name = stem(&path);
        let Some((prefix, number)) = split_modality(&name) else {
            cases.push(single(path));
            continue;
        };
        let files = series.entry((parent(&path), prefix.into())).or_default();
        if let Some(first) = files.insert(number, path.clone()) {
            return Err(VolumeError::DuplicateCase { path, case: name, first }); // `.nii` beside `.nii.gz`
        }
    }
    let from_zero = series.values().filter(|files| files.contains_key(&0)).count();
    for ((_, case_id), files) in series {
        let found = files.len();
        let is_patients = modalities == 1 && found > 1 && from_zero == 1;
        if !files.contains_key(&0) {
            cases.extend(files.into_values().map(single)); // numbered cases, not modalities
        } else if found == 1 || found == modalities {
            cases.push(CaseFiles { case_id, images: files.into_values().collect(), labels: None });
        } else if is_patients {
            notes.push(format!(
                "{case_id}_0000 and {} more are taken for {found} cases, as the model has one modality; nnU-Net would \
                 name {found} modalities of one case so",
                found - 1
            ));
            cases.extend(files.into_values().map(single));
        } else {
            let path = files.into_values().next().unwrap_or_default();
            return Err(VolumeError::Modalities { path, found, expected: modalities, case: case_id });
        }
    }
    Ok(cases)
}

/// Prefixes names that occur more than once with the folder's name (`a/image.nii`, `b/image.nii`). Names that are
/// not UTF-8 may become equal when they are made readable; they get numbers.
///
/// # Errors
/// [`VolumeError::DuplicateCase`].
pub(super) fn make_unique(cases: &mut [CaseFiles]) -> Result<(), VolumeError> {
    let folder = |case: &CaseFiles| case.images.first().map(|path| parent(path)).unwrap_or_default();
    let mut folders: HashMap<String, HashSet<PathBuf>> = HashMap::new();
    for case in cases.iter() {
        folders.entry(case.case_id.clone()).or_default().insert(folder(case));
    }
    for case in cases.iter_mut().filter(|case| folders.get(&case.case_id).is_some_and(|all| all.len() > 1)) {
        let name = case.images.first().map(|path| folder_name(path)).unwrap_or_default();
        if !name.is_empty() {
            case.case_id = format!("{name}_{}", case.case_id);
        }
    }
    let mut first_of: HashMap<String, PathBuf> = HashMap::new();
    for case in cases {
        let path = case.images.first().cloned().unwrap_or_default();
        if path.to_str().is_none() {
            let name = case.case_id.clone();
            let mut number = 1;
            while first_of.contains_key(&case.case_id) {
                number += 1;
                case.case_id = format!("{name}_{number}");
            }
        }
        if let Some(first) = first_of.insert(case.case_id.clone(), path.clone()) {
            return Err(VolumeError::DuplicateCase { path, case: case.case_id.clone(), first });
        }
    }
    Ok(())
}
