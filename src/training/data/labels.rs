//! Maps the values of label files to the network's classes.

use ndarray::Array3;

use crate::training::config::TrainingConfig;
use crate::training::optimise::IGNORED;

/// The meaning of each value of a label file.
#[derive(Debug, Clone)]
pub struct LabelRules {
    /// Class of each value; [`IGNORED`] for ignored voxels; `None` for values without a meaning.
    classes: [Option<u8>; 256],
}

impl LabelRules {
    /// `values` has the value of each class in order; `ignore` has the ignored values.
    pub fn new(values: impl IntoIterator<Item = u8>, ignore: impl IntoIterator<Item = u8>) -> Self {
        let mut classes = [None; 256];
        for (class, value) in (0..IGNORED).zip(values) {
            classes[usize::from(value)] = Some(class);
        }
        for value in ignore {
            classes[usize::from(value)] = Some(IGNORED);
        }
        Self { classes }
    }

    /// The mapping of a configuration.
    pub fn of_config(config: &TrainingConfig) -> Self {
        Self::new(config.label_values(), config.data.ignore.values())
    }

    /// Replaces values by classes.
    ///
    /// # Errors
    /// A value without a meaning; the labels may then be partly changed.
    pub fn apply(&self, labels: &mut Array3<u8>) -> Result<(), u8> {
        let mut unknown = None;
        labels.map_inplace(|label| match self.classes[usize::from(*label)] {
            Some(class) => *label = class,
            None => unknown = Some(*label),
        });
        unknown.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_gaps_are_classes_and_ignored_ones_keep_apart() {
        let rules = LabelRules::new([0, 250, 7], [255, 254]);
        let volume = |labels: &[u8]| Array3::from_shape_vec((1, 1, labels.len()), labels.to_vec()).unwrap();
        let mut labels = volume(&[0, 7, 250, 254, 255]);
        rules.apply(&mut labels).unwrap();
        assert_eq!(labels, volume(&[0, 2, 1, IGNORED, IGNORED]));
        assert_eq!(rules.apply(&mut volume(&[0, 1])), Err(1));
    }
}
