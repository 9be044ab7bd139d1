//! Which components of a label map are kept.

use ndarray::{Array3, s};
use serde::{Deserialize, Serialize};

use crate::array::{Run, connected_runs};
use crate::bundle::{BundleConfig, LargestComponent};

/// [`LargestComponent`] with the labels of its classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptComponents {
    /// All.
    #[default]
    All,
    /// The largest of the foreground.
    LargestOfForeground,
    /// Of each of these labels the largest.
    LargestOf(Vec<u8>),
}

impl KeptComponents {
    /// As the bundle says.
    pub fn of(config: &BundleConfig) -> Self {
        match &config.largest_component {
            rule if rule.keeps_all() => Self::All,
            LargestComponent::OfForeground(_) => Self::LargestOfForeground,
            LargestComponent::OfClasses(names) => {
                let labels = (0..=u8::MAX).zip(&config.classes).filter(|(_, class)| names.contains(class));
                Self::LargestOf(labels.map(|(label, _)| label).collect())
            }
        }
    }

    /// Sets all other components to background.
    pub fn apply(&self, labels: &mut Array3<u8>) {
        match self {
            Self::All => {}
            Self::LargestOfForeground => keep_largest_component(labels),
            Self::LargestOf(classes) => keep_largest_component_of(labels, classes),
        }
    }
}

/// Keeps only the largest connected component of the foreground (all classes together; the first in index order in
/// case of a tie) and sets everything else to background. Voxels that share a corner are connected (nnU-Net's
/// `remove_all_but_largest_component`).
pub fn keep_largest_component(labels: &mut Array3<u8>) {
    let foreground = labels.mapv(|label| u8::from(label > 0));
    erase_islands(labels, &connected_runs(foreground.view()), &[1]);
}

/// Keeps only the largest connected component of each of `classes`, as [`keep_largest_component`] does with the
/// foreground. Other classes are not changed.
pub fn keep_largest_component_of(labels: &mut Array3<u8>, classes: &[u8]) {
    let runs = connected_runs(labels.view());
    erase_islands(labels, &runs, classes);
}

/// Sets the runs of `classes` outside the largest component of each to background.
fn erase_islands(labels: &mut Array3<u8>, runs: &[Run], classes: &[u8]) {
    let mut voxels = vec![0; runs.len()];
    for run in runs {
        voxels[run.component] += run.length();
    }
    let mut largest: [Option<usize>; 256] = [None; 256];
    for (index, run) in runs.iter().enumerate().filter(|(index, run)| run.component == *index) {
        let of_class = &mut largest[usize::from(run.class)];
        if of_class.is_none_or(|other| voxels[index] > voxels[other]) {
            *of_class = Some(index);
        }
    }
    let is_island =
        |run: &&Run| classes.contains(&run.class) && largest[usize::from(run.class)] != Some(run.component);
    for run in runs.iter().filter(is_island) {
        let [x, y] = run.row;
        labels.slice_mut(s![x, y, run.first..=run.last]).fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn the_largest_component_stays_with_all_its_classes() {
        let mut labels = Array3::<u8>::zeros((6, 5, 4));
        for (at, label) in [([0, 0, 0], 1), ([1, 1, 1], 2), ([2, 0, 0], 1), ([4, 4, 3], 1), ([5, 4, 3], 2)] {
            labels[at] = label;
        }
        let mut expected = labels.clone();
        expected[[4, 4, 3]] = 0;
        expected[[5, 4, 3]] = 0;
        keep_largest_component(&mut labels);
        assert_eq!(labels, expected);
    }

    #[test]
    fn of_equals_the_first_stays_and_nothing_stays_nothing() {
        let mut labels = Array3::<u8>::zeros((1, 1, 5));
        keep_largest_component(&mut labels);
        assert_eq!(labels, Array3::<u8>::zeros((1, 1, 5)));
        labels[[0, 0, 1]] = 3;
        labels[[0, 0, 4]] = 3;
        let mut of_class = labels.clone();
        keep_largest_component(&mut labels);
        assert_eq!(labels.as_slice().unwrap_or_default(), [0_u8, 3, 0, 0, 0]);
        keep_largest_component_of(&mut of_class, &[1, 3]);
        assert_eq!(of_class, labels);
    }

    #[test]
    fn each_class_has_a_largest_component_of_its_own_and_others_stay() {
        let row = |labels: &[u8]| Array3::from_shape_vec((1, 1, labels.len()), labels.to_vec()).unwrap();
        let before = [1, 0, 1, 1, 2, 2, 2, 0, 2, 3, 0, 3];
        for (classes, expected) in [
            (&[1][..], [0, 0, 1, 1, 2, 2, 2, 0, 2, 3, 0, 3]),
            (&[2, 1], [0, 0, 1, 1, 2, 2, 2, 0, 0, 3, 0, 3]),
            (&[3], [1, 0, 1, 1, 2, 2, 2, 0, 2, 3, 0, 0]),
            (&[], before),
        ] {
            let mut labels = row(&before);
            keep_largest_component_of(&mut labels, classes);
            assert_eq!(labels, row(&expected), "{classes:?}");
        }
    }

    #[test]
    fn a_bundle_names_classes_and_a_plan_their_labels() {
        let mut config = Bundle::plain_lite_medsam(Path::new("")).config;
        config.classes = ["background", "left", "right"].map(String::from).to_vec();
        let mut kept = |rule: LargestComponent| {
            config.largest_component = rule;
            config.check().unwrap();
            KeptComponents::of(&config)
        };
        assert_eq!(kept(false.into()), KeptComponents::All);
        assert_eq!(kept(true.into()), KeptComponents::LargestOfForeground);
        let classes = LargestComponent::OfClasses(vec!["right".into()]);
        assert_eq!(kept(classes), KeptComponents::LargestOf(vec![2]));
    }
}
