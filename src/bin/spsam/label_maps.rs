//! Label maps in pairs, for `spsam evaluate` and `spsam compare`.

use std::collections::BTreeSet;

use eyre::{Result, WrapErr, bail, eyre};
use ndarray::Array3;
use self_prompt_sam::volume::dataset::Pair;
use self_prompt_sam::volume::{
    self, ClassTable, Header, IgnoreValues, LabelFiles, Regrid, TargetGrid, USUAL_IGNORE_VALUE, VolumeError,
    masks_of_classes, number_masks,
};

/// A case in memory, on the truth's grid; labels are indices into the table of classes.
pub struct Volumes {
    pub truth: Array3<u8>,
    pub prediction: Array3<u8>,
    /// `[x, y, z]`.
    pub spacing_mm: [f64; 3],
}

/// The classes that the user names, else those of the masks, else the values found.
pub fn class_table(pairs: &mut [Pair], named: &[String], ignore: &IgnoreValues) -> Result<ClassTable> {
    let labels =
        pairs.iter_mut().flat_map(|pair| std::iter::once(&mut pair.truth).chain(&mut pair.prediction));
    if !named.is_empty() {
        let table = ClassTable::parse(named).map_err(|error| eyre!("--classes: {error}"))?;
        let others = masks_of_classes(labels, &table)?;
        if !others.is_empty() {
            tracing::warn!("masks that are none of the classes are left out: {}", others.join(", "));
        }
        return Ok(table);
    }
    match number_masks(labels).wrap_err("--classes value=name,… would say which value is which mask")? {
        Some(table) => Ok(table),
        None => Ok(ClassTable::of_values(values(pairs, ignore)?)),
    }
}

impl Volumes {
    /// Reads a case on the grid of its truth.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(pair: &Pair, ignore: &IgnoreValues, table: &ClassTable, regrid: Regrid) -> Result<Self> {
        // The truth's grid: that of its file or of its first mask.
        let first = pair.truth.files().first().map(|path| Header::read(path)).transpose()?;
        let Some(header) = first else { bail!("{}: no labels", pair.truth.path().display()) };
        let grid = TargetGrid::from(&header);
        let read_on_grid =
            |labels: &LabelFiles| labels.read(|path| volume::read_labels_on(path, &grid, regrid));
        let mut truth = read_on_grid(&pair.truth)?;
        let mut prediction = match &pair.prediction {
            Some(labels) => read_on_grid(labels)?,
            None => Array3::zeros(truth.dim()),
        };
        let (truth_path, prediction_path) =
            (pair.truth.path(), pair.prediction.as_ref().unwrap_or(&pair.truth).path());
        ignore.clear_both(&mut truth, &mut prediction);
        for (labels, path) in [(&mut truth, truth_path), (&mut prediction, prediction_path)] {
            let unknown = |value| VolumeError::UnknownLabel { path: path.into(), value };
            table.to_indices(labels).map_err(unknown)?;
        }
        Ok(Self { truth, prediction, spacing_mm: header.spacing_mm() })
    }
}

/// All values of truth and predictions, except ignored ones.
fn values(pairs: &[Pair], ignore: &IgnoreValues) -> Result<BTreeSet<u8>> {
    let mut values = BTreeSet::new();
    for pair in pairs {
        for (labels, is_truth) in [(Some(&pair.truth), true), (pair.prediction.as_ref(), false)] {
            let Some(labels) = labels else { continue };
            let mut is_there = [false; 256];
            let read = labels.read(|path| Ok(volume::read_labels(path)?.0))?;
            read.iter().for_each(|&label| is_there[usize::from(label)] = true);
            let found =
                (0..=u8::MAX).filter(|&value| is_there[usize::from(value)] && !ignore.contains(value));
            let found: Vec<u8> = found.collect();
            if is_truth && found.contains(&USUAL_IGNORE_VALUE) {
                let error =
                    VolumeError::UnknownLabel { path: labels.path().into(), value: USUAL_IGNORE_VALUE };
                bail!("{error}; --classes 255=name makes it a class");
            }
            values.extend(found);
        }
    }
    Ok(values)
}
