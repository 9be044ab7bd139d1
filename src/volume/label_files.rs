//! The label files of a case: one volume with a value per class, or a folder with one mask per class
//! (TotalSegmentator's `segmentations/liver.nii.gz`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ndarray::{Array3, Zip};
use serde::{Deserialize, Serialize};

use super::classes::ClassTable;
use super::dataset::written;
use super::error::VolumeError;

/// The label files of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelFiles {
    /// A volume with a value per class.
    Volume(#[serde(with = "written::path")] PathBuf),
    /// Masks, sorted by name.
    Masks(Vec<MaskFile>),
}

/// The mask of one class: 0 outside, one other value inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskFile {
    /// Name of the class, from the file name.
    pub name: String,
    /// Value of the class.
    pub value: u8,
    /// The file.
    #[serde(with = "written::path")]
    pub path: PathBuf,
}

impl From<PathBuf> for LabelFiles {
    fn from(volume: PathBuf) -> Self {
        Self::Volume(volume)
    }
}

impl From<&Path> for LabelFiles {
    fn from(volume: &Path) -> Self {
        Self::Volume(volume.into())
    }
}

impl LabelFiles {
    /// Path of the volume, or of the folder of masks, for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Volume(path) => path,
            Self::Masks(masks) => masks.first().and_then(|mask| mask.path.parent()).unwrap_or(Path::new("")),
        }
    }

    /// All files.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Volume(path) => vec![path],
            Self::Masks(masks) => masks.iter().map(|mask| &*mask.path).collect(),
        }
    }

    /// The labels; `read` reads one file. Where masks overlap, the class whose name comes later gets the voxel, and
    /// a warning gives the number of such voxels.
    ///
    /// # Errors
    /// Those of `read`; [`VolumeError::NoMask`] for a mask with several values; [`VolumeError::MaskShapes`].
    pub fn read(
        &self,
        mut read: impl FnMut(&Path) -> Result<Array3<u8>, VolumeError>,
    ) -> Result<Array3<u8>, VolumeError> {
        let masks = match self {
            Self::Volume(path) => return read(path),
            Self::Masks(masks) => masks,
        };
        let mut labels: Option<Array3<u8>> = None;
        let mut overlap = 0usize;
        for MaskFile { value, path, .. } in masks {
            let mask = read(path)?;
            check_mask(path, &mask)?;
            let labels = labels.get_or_insert_with(|| Array3::zeros(mask.dim()));
            if labels.dim() != mask.dim() {
                return Err(VolumeError::MaskShapes { path: path.clone(), folder: self.path().into() });
            }
            Zip::from(labels).and(&mask).for_each(|label, &inside| {
                if inside != 0 {
                    overlap += usize::from(*label != 0);
                    *label = *value;
                }
            });
        }
        if overlap > 0 {
            let folder = self.path().display();
            tracing::warn!(
                "{folder}: {overlap} voxels are in two masks; the class whose name comes later gets them"
            );
        }
        labels.ok_or_else(|| VolumeError::NoCases { path: self.path().into() })
    }
}

/// Checks that a mask has only 0 and one other value.
fn check_mask(path: &Path, mask: &Array3<u8>) -> Result<(), VolumeError> {
    let inside = mask.iter().copied().find(|&value| value != 0);
    match mask.iter().copied().find(|&value| value != 0 && Some(value) != inside) {
        Some(value) => Err(VolumeError::NoMask { path: path.into(), values: [inside.unwrap_or(0), value] }),
        None => Ok(()),
    }
}

/// Assigns values from 1 to the masks of all cases, in the order of their names, so that a class has the same value
/// in all cases. `None` if all label files are volumes.
///
/// # Errors
/// [`VolumeError::MixedLabels`] if some are volumes; [`VolumeError::TooManyMasks`].
pub fn number_masks<'a>(
    labels: impl IntoIterator<Item = &'a mut LabelFiles>,
) -> Result<Option<ClassTable>, VolumeError> {
    let mut labels: Vec<&mut LabelFiles> = labels.into_iter().collect();
    let names = mask_names(labels.iter().map(|labels| &**labels));
    let Some(masks) = labels.iter().find(|labels| matches!(labels, LabelFiles::Masks(_))) else {
        return Ok(None);
    };
    if let Some(volume) = labels.iter().find(|labels| matches!(labels, LabelFiles::Volume(_))) {
        return Err(VolumeError::MixedLabels { path: volume.path().into(), folder: masks.path().into() });
    } else if names.len() > usize::from(u8::MAX) {
        return Err(VolumeError::TooManyMasks { folder: masks.path().into(), count: names.len() });
    }
    let table = ClassTable::of_names((1..=u8::MAX).zip(names));
    for labels in &mut labels {
        labels.use_classes(&table);
    }
    Ok(Some(table))
}

/// Gives masks the values of the classes with their names; other masks are ignored. Returns the names of the ignored
/// masks.
///
/// # Errors
/// [`VolumeError::NoMaskOfAClass`] if a case has masks but none of a class.
pub fn masks_of_classes<'a>(
    labels: impl IntoIterator<Item = &'a mut LabelFiles>,
    classes: &ClassTable,
) -> Result<Vec<String>, VolumeError> {
    let mut others = BTreeSet::new();
    for labels in labels {
        let folder = labels.path().to_path_buf();
        others.extend(labels.use_classes(classes));
        if matches!(labels, LabelFiles::Masks(masks) if masks.is_empty()) {
            return Err(VolumeError::NoMaskOfAClass { folder, classes: classes.names() });
        }
    }
    Ok(others.into_iter().collect())
}

fn mask_names<'a>(labels: impl Iterator<Item = &'a LabelFiles>) -> BTreeSet<String> {
    let names = labels.flat_map(|labels| match labels {
        LabelFiles::Volume(_) => Vec::new(),
        LabelFiles::Masks(masks) => masks.iter().map(|mask| mask.name.clone()).collect(),
    });
    names.collect()
}

impl LabelFiles {
    /// Keeps the masks of classes, with their values; returns the names of the others.
    fn use_classes(&mut self, classes: &ClassTable) -> Vec<String> {
        let Self::Masks(masks) = self else { return Vec::new() };
        let same = |a: &str, b: &str| {
            let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
            plain(a) == plain(b)
        };
        let mut others = Vec::new();
        masks.retain_mut(|mask| {
            match classes.classes().iter().skip(1).find(|class| same(&class.name, &mask.name)) {
                Some(class) => mask.value = class.value,
                None => others.push(mask.name.clone()),
            }
            !others.contains(&mask.name)
        });
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(names: &[&str]) -> LabelFiles {
        let mask =
            |name: &&str| MaskFile { name: (*name).into(), value: 0, path: format!("s/{name}.nii").into() };
        LabelFiles::Masks(names.iter().map(mask).collect())
    }

    fn values(labels: &LabelFiles) -> Vec<(&str, u8)> {
        let LabelFiles::Masks(masks) = labels else { panic!("masks") };
        masks.iter().map(|mask| (&*mask.name, mask.value)).collect()
    }

    fn row(values: &[u8]) -> Array3<u8> {
        Array3::from_shape_vec((1, 1, values.len()), values.to_vec()).unwrap()
    }

    #[test]
    fn a_class_has_one_value_in_all_cases() {
        let mut cases = [masks(&["liver", "spleen"]), masks(&["kidney", "spleen"])];
        let table = number_masks(&mut cases).unwrap().unwrap();
        assert_eq!(table.names(), ["background", "kidney", "liver", "spleen"]);
        assert_eq!(values(&cases[0]), [("liver", 2), ("spleen", 3)]);
        assert_eq!(values(&cases[1]), [("kidney", 1), ("spleen", 3)]);
        let mut mixed = [masks(&["liver"]), LabelFiles::Volume("v.nii".into())];
        assert!(number_masks(&mut mixed).unwrap_err().to_string().contains("v.nii"));
        assert!(number_masks(&mut [LabelFiles::Volume("v.nii".into())]).unwrap().is_none());
    }

    #[test]
    fn masks_get_the_values_of_the_models_classes() {
        let model = ClassTable::of_model(&["background", "Spleen", "left kidney"].map(String::from));
        let mut cases = [masks(&["kidney_left", "left_kidney", "liver", "spleen"])];
        assert_eq!(masks_of_classes(&mut cases, &model).unwrap(), ["kidney_left", "liver"]);
        assert_eq!(values(&cases[0]), [("left_kidney", 2), ("spleen", 1)]);
        assert!(masks_of_classes(&mut [masks(&["heart"])], &model).is_err());
    }

    #[test]
    fn masks_are_joined_and_the_later_name_wins() {
        let mut cases = [masks(&["a", "b"])];
        number_masks(&mut cases).unwrap();
        let read = |path: &Path| {
            Ok(if path.ends_with("a.nii") { row(&[1, 1, 0, 0]) } else { row(&[0, 255, 255, 0]) })
        };
        assert_eq!(cases[0].read(read).unwrap(), row(&[1, 2, 2, 0]));
        let error = cases[0].read(|_| Ok(row(&[0, 1, 2]))).unwrap_err().to_string();
        assert!(error.contains("a.nii") && error.contains('2'), "{error}");
    }
}
