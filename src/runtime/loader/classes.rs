//! The classes of a run and their values in label maps, from the model, the boxes or the labels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use eyre::{Result, bail, eyre};

use crate::bundle::BundleConfig;
use crate::runtime::Settings;
use crate::volume::{
    CaseFiles, ClassTable, IgnoreValues, LabelFiles, USUAL_IGNORE_VALUE, VolumeError, read_labels,
};

/// Determines the classes. If they come from labels, cases whose labels cannot be used are added to `unusable`, by
/// index.
///
/// # Errors
/// Labels without any class, or more classes than fit into messages.
pub(super) fn of_run(
    settings: &Settings,
    config: &BundleConfig,
    cases: &[CaseFiles],
    unusable: &mut BTreeMap<usize, String>,
) -> Result<ClassTable> {
    let classes = match (&settings.model, settings.boxes.is_empty()) {
        (Some(_), _) => ClassTable::of_model(&config.classes),
        (None, false) => {
            let mut names = vec!["background".to_owned()];
            for named in &settings.boxes {
                if !names.contains(&named.name) {
                    names.push(named.name.clone());
                }
            }
            ClassTable::of_model(&names)
        }
        (None, true) => of_labels(cases, &settings.ignore, unusable)?,
    };
    if let Some(unknown) = settings.boxes.iter().find(|named| !classes.names().contains(&named.name)) {
        bail!("SPSAM_BOXES: `{}` is not one of the model's classes {:?}", unknown.name, classes.names());
    }
    let of_run = BundleConfig { classes: classes.names(), ..config.clone() };
    of_run.check().map_err(|reason| match &settings.labels {
        Some(labels) if settings.model.is_none() => eyre!("{}: {reason}", labels.display()),
        _ => eyre!("{reason}"),
    })?;
    Ok(classes)
}

/// A class for each value in the labels of the cases; masks give their names to the classes.
fn of_labels(
    cases: &[CaseFiles],
    ignore: &IgnoreValues,
    unusable: &mut BTreeMap<usize, String>,
) -> Result<ClassTable> {
    let mut values = BTreeSet::new();
    let mut names = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        let Some(labels) = &case.labels else { continue };
        if let LabelFiles::Masks(masks) = labels {
            names.extend(masks.iter().map(|mask| (mask.value, mask.name.clone())));
            continue;
        }
        match values_of(labels.path(), ignore) {
            Ok(found) => values.extend(found),
            Err(error) => {
                unusable.entry(index).or_insert_with(|| error.to_string());
            }
        }
    }
    let of_values = ClassTable::of_values(values);
    match cases.iter().find_map(|case| case.labels.as_ref()) {
        _ if !names.is_empty() => Ok(ClassTable::of_names(names)),
        _ if of_values.len() > 1 => Ok(of_values),
        None => bail!("no classes: set SPSAM_MODEL, SPSAM_LABELS or SPSAM_BOXES"),
        Some(labels) => match unusable.values().next() {
            Some(error) => bail!("{error}"),
            None => bail!("{}: there is no label but the background", labels.path().display()),
        },
    }
}

/// The values of a label volume that stand for classes.
fn values_of(path: &Path, ignore: &IgnoreValues) -> Result<Vec<u8>, VolumeError> {
    let mut is_there = [false; 256];
    read_labels(path)?.0.iter().for_each(|&label| is_there[usize::from(label)] = true);
    let values = (1..=u8::MAX).filter(|&value| is_there[usize::from(value)] && !ignore.contains(value));
    let values: Vec<u8> = values.collect();
    match values.contains(&USUAL_IGNORE_VALUE) {
        true => Err(VolumeError::UnknownLabel { path: path.into(), value: USUAL_IGNORE_VALUE }),
        false => Ok(values),
    }
}
