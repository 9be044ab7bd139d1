//! Ignore values: values of label volumes for voxels that nobody has annotated ("ignore", "void").

use std::collections::BTreeSet;
use std::str::FromStr;

use ndarray::{Array3, Zip};
use serde::{Deserialize, Serialize};

/// The ignore value of many datasets.
pub const USUAL_IGNORE_VALUE: u8 = 255;

/// Label values whose voxels are excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IgnoreValues(BTreeSet<u8>);

impl FromStr for IgnoreValues {
    type Err = String;

    /// Values separated by commas, such as `255` or `254,255`; none if the text is empty.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let value = |part: &str| match part.parse() {
            Ok(0) => Err("0 is the background and cannot be ignored".to_owned()),
            Ok(value) => Ok(value),
            Err(_) => Err(format!("`{part}` is not a label value from 1 to 255")),
        };
        parts.map(value).collect::<Result<_, _>>().map(Self)
    }
}

impl FromIterator<u8> for IgnoreValues {
    fn from_iter<I: IntoIterator<Item = u8>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl IgnoreValues {
    /// Whether no value is ignored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether voxels of this value are excluded.
    pub fn contains(&self, value: u8) -> bool {
        self.0.contains(&value)
    }

    /// The values in ascending order.
    pub fn values(&self) -> impl Iterator<Item = u8> {
        self.0.iter().copied()
    }

    /// Sets ignored voxels to 0 and returns their mask; `None` if there are none.
    pub fn clear(&self, labels: &mut Array3<u8>) -> Option<Array3<bool>> {
        if self.is_empty() || !labels.iter().any(|&label| self.contains(label)) {
            return None;
        }
        let mut ignored = [false; 256];
        self.values().for_each(|value| ignored[usize::from(value)] = true);
        let mask = labels.map(|&label| ignored[usize::from(label)]);
        erase(labels, &mask);
        Some(mask)
    }

    /// As [`IgnoreValues::clear`], for metrics: voxels that the truth ignores become background in both volumes. An
    /// ignored value in the prediction also becomes background, but is counted.
    pub fn clear_both(&self, truth: &mut Array3<u8>, prediction: &mut Array3<u8>) {
        self.clear(prediction);
        if let Some(mask) = self.clear(truth) {
            erase(prediction, &mask);
        }
    }
}

/// Sets the labels of these voxels to the background.
pub fn erase(labels: &mut Array3<u8>, mask: &Array3<bool>) {
    Zip::from(labels).and(mask).for_each(|label, &is_ignored| {
        if is_ignored {
            *label = 0;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(labels: &[u8]) -> Array3<u8> {
        Array3::from_shape_vec((1, 1, labels.len()), labels.to_vec()).unwrap()
    }

    #[test]
    fn what_the_truth_ignores_is_background_in_both() {
        let ignore: IgnoreValues = "255, 254".parse().unwrap();
        let (mut truth, mut prediction) = (volume(&[0, 1, 255, 254, 1]), volume(&[1, 1, 1, 0, 255]));
        ignore.clear_both(&mut truth, &mut prediction);
        assert_eq!((truth, prediction), (volume(&[0, 1, 0, 0, 1]), volume(&[1, 1, 0, 0, 0])));
        assert!(ignore.clear(&mut volume(&[0, 1])).is_none());
    }

    #[test]
    fn values_are_parsed_and_mistakes_named() {
        assert!("".parse::<IgnoreValues>().unwrap().is_empty());
        for wrong in ["0", "256", "-1", "x"] {
            assert!(wrong.parse::<IgnoreValues>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
