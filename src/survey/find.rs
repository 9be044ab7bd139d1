//! Finds the cases of a dataset: those that `dataset.json` lists, else by names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::dataset_json::{DatasetJson, Listed};
use super::{Problem, Severity};
use crate::volume::{CaseFiles, Discovery, LabelFiles, VolumeError};

/// Most names listed in one line.
const MOST_NAMES: usize = 20;

/// A dataset's cases.
#[derive(Debug, Default)]
pub struct Found {
    /// The cases in natural order of their names. Some may have no labels, which is then among the problems.
    pub cases: Vec<CaseFiles>,
    /// Problems found so far.
    pub problems: Vec<Problem>,
    /// The dataset's `dataset.json`.
    pub json: Option<DatasetJson>,
    /// Whether several files could be the labels of a case.
    is_ambiguous: bool,
}

impl Found {
    /// Replaces the problems of missing labels by one note if no image of `input` has labels and there is no folder
    /// of them.
    pub fn allow_no_labels(&mut self, input: &Path) {
        let has_folder = || ["labelsTr", "labels", "label"].iter().any(|name| input.join(name).is_dir());
        if self.is_ambiguous || has_folder() || self.cases.iter().any(|case| case.labels.is_some()) {
            return;
        }
        self.problems.retain(|problem| problem.case.is_none() || problem.severity != Severity::Error);
        let text = format!("{}: no labels; --labels names their folder", input.display());
        self.problems.push(Problem::new(Severity::Note, None, text));
    }
}

/// Finds the cases in `input` ([`Discovery::find`]) and their labels: those that `dataset.json` lists, else by name
/// in `labels` or `input`. If `labels` is given, the pairs of `dataset.json` are not used. `modalities` is the
/// number per case; if absent, it follows from `dataset.json` or the files.
///
/// # Errors
/// Those of [`Discovery::find`].
pub fn find(input: &Path, labels: Option<&Path>, modalities: Option<usize>) -> Result<Found, VolumeError> {
    let folder = match input.file_name() {
        Some(name) if name == "dataset.json" => input.parent().unwrap_or(Path::new("")),
        _ => input,
    };
    let mut found = Found::default();
    match DatasetJson::read(folder) {
        Some(Ok(json)) => found.json = Some(json),
        Some(Err(text)) => found.problems.push(Problem::new(Severity::Warning, None, text)),
        None => {}
    }
    let listed_modalities = found.json.as_ref().map(|json| json.modalities.len()).filter(|&count| count > 0);
    let root = labels.unwrap_or(input);
    let discovered = discover(input, root, modalities.or(listed_modalities))?;
    for (_, error) in &discovered.unusable {
        found.problems.push(Problem::new(Severity::Error, None, error.to_string()));
    }
    for note in &discovered.notes {
        found.problems.push(Problem::new(Severity::Note, None, note.clone()));
    }
    found.problems.extend(left_out(&discovered));
    let missing = discovered.without_labels;
    found.is_ambiguous =
        missing.iter().any(|(_, error)| matches!(error, VolumeError::AmbiguousLabels { .. }));
    found.cases = discovered.cases;
    if let (Some(json), None) = (&found.json, labels)
        && !json.pairs.is_empty()
    {
        let pairs = json.pairs.clone();
        let path = json.path.clone();
        found.use_pairs(&pairs, &path);
    }
    let without: BTreeSet<&str> =
        found.cases.iter().filter(|case| case.labels.is_none()).map(|case| case.case_id.as_str()).collect();
    let errors = missing.iter().filter(|(case, _)| without.contains(case.as_str()));
    let errors = errors.map(|(case, error)| Problem::new(Severity::Error, Some(case), error.to_string()));
    found.problems.extend(errors.collect::<Vec<_>>());
    Ok(found)
}

/// As [`Discovery::find`]; an unknown number of modalities follows from the first case's files.
fn discover(input: &Path, labels: &Path, modalities: Option<usize>) -> Result<Discovery, VolumeError> {
    match Discovery::find(input, Some(labels), modalities.unwrap_or(1)) {
        Err(VolumeError::Modalities { found, .. }) if modalities.is_none() => {
            Discovery::find(input, Some(labels), found)
        }
        other => other,
    }
}

fn left_out(discovered: &Discovery) -> Vec<Problem> {
    let line = |left_out: &crate::volume::LeftOut| {
        let text = format!("{}: not taken: {}", left_out.path.display(), left_out.reason);
        Problem::new(Severity::Note, None, text)
    };
    discovered.left_out.iter().map(line).collect()
}

impl Found {
    /// Keeps only the cases that `dataset.json` lists, with the labels it names.
    fn use_pairs(&mut self, pairs: &[Listed], json: &Path) {
        let mut listed: Vec<Option<&Listed>> = vec![None; self.cases.len()];
        for pair in pairs {
            let image = &pair.images[0];
            match self.cases.iter().position(|case| case.images.iter().any(|path| is_image(path, image))) {
                Some(index) => listed[index] = Some(pair),
                None if !image.exists() => {
                    let text = format!("{}: listed in dataset.json, but not there", image.display());
                    self.problems.push(Problem::new(Severity::Error, None, text));
                }
                None => {
                    let text =
                        format!("{}: listed in dataset.json, but not among the images", image.display());
                    self.problems.push(Problem::new(Severity::Warning, None, text));
                }
            }
        }
        let mut cases = Vec::new();
        let mut unlisted = Vec::new();
        for (mut case, pair) in std::mem::take(&mut self.cases).into_iter().zip(listed) {
            let Some(pair) = pair else {
                unlisted.push(case.case_id);
                continue;
            };
            if let Some(labels) = &pair.labels {
                if !labels.is_file() {
                    let text = format!("{}: listed in dataset.json, but not there", labels.display());
                    self.problems.push(Problem::new(Severity::Error, Some(&case.case_id), text));
                }
                case.labels = Some(LabelFiles::Volume(labels.clone()));
            }
            cases.push(case);
        }
        if !unlisted.is_empty() {
            let more = unlisted.len().saturating_sub(MOST_NAMES);
            unlisted.truncate(MOST_NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let text = format!(
                "{}: does not list the cases {}{more}; they are left out",
                json.display(),
                unlisted.join(", ")
            );
            self.problems.push(Problem::new(Severity::Warning, None, text));
        }
        self.cases = cases;
    }
}

/// Whether `listed` names the file `image`: with its full name, or without the modality's number as in nnU-Net v1.
fn is_image(image: &Path, listed: &Path) -> bool {
    if image == listed {
        return true;
    }
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (file, listed_name) = (name(image), name(listed));
    let numbered = || {
        let (base, ending) = listed_name.split_once(".nii").unwrap_or((&listed_name, ""));
        let rest = file.strip_prefix(base).and_then(|rest| rest.strip_prefix('_'));
        rest.and_then(|rest| rest.split_once(".nii")).is_some_and(|(number, rest)| {
            number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit()) && rest == ending
        })
    };
    let folder = |path: &Path| path.parent().map(PathBuf::from).unwrap_or_default();
    (file == listed_name && same(image, listed)) || (numbered() && same(&folder(image), &folder(listed)))
}
