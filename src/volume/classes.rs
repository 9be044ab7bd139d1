//! The voxel value of each class: label maps keep the values of the user's labels, while the network and everything
//! around it number classes from 0.

use std::collections::BTreeMap;

use ndarray::Array3;
use serde::{Deserialize, Serialize};

/// A class in label maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelClass {
    /// Value of its voxels.
    pub value: u8,
    /// Name.
    pub name: String,
}

/// The classes in order. The first is the background with value 0; no two classes have the same value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassTable(Vec<LabelClass>);

impl ClassTable {
    /// Classes of a model, background first, with values from 0. Names after the 256th have no value and are
    /// ignored.
    pub fn of_model(names: &[String]) -> Self {
        let class = |(value, name): (u8, &String)| LabelClass { value, name: name.clone() };
        Self((0..=u8::MAX).zip(names).map(class).collect())
    }

    /// The background, and a class `class_<value>` for each other value.
    pub fn of_values(values: impl IntoIterator<Item = u8>) -> Self {
        Self::of_names(values.into_iter().map(|value| (value, format!("class_{value}"))))
    }

    /// The background, and classes with these values and names.
    pub fn of_names(names: impl IntoIterator<Item = (u8, String)>) -> Self {
        let names = names.into_iter().filter(|(value, _)| *value != 0);
        let others: BTreeMap<u8, String> = names.collect();
        let background = LabelClass { value: 0, name: "background".into() };
        let others = others.into_iter().map(|(value, name)| LabelClass { value, name });
        Self(std::iter::once(background).chain(others).collect())
    }

    /// Parses names given by a user: `name` has its index as value, `value=name` has that value.
    ///
    /// # Errors
    /// One line saying why the names are not valid.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, String> {
        let mut classes: Vec<LabelClass> = Vec::new();
        for (place, text) in names.iter().enumerate() {
            let text = text.as_ref();
            let (value, name) = text.split_once('=').unwrap_or(("", text));
            let value = if value.is_empty() { place.to_string() } else { value.trim().to_owned() };
            let value =
                value.parse().map_err(|_| format!("`{text}`: {value} is not a value from 0 to 255"))?;
            if let Some(other) = classes.iter().find(|class| class.value == value || class.name == name) {
                return Err(format!("`{text}`: value {} is already {}", other.value, other.name));
            }
            classes.push(LabelClass { value, name: name.to_owned() });
        }
        if classes.iter().all(|class| class.value != 0) {
            classes.push(LabelClass { value: 0, name: "background".into() });
        }
        classes.sort_by_key(|class| class.value);
        Ok(Self(classes))
    }

    /// The classes, background first.
    pub fn classes(&self) -> &[LabelClass] {
        &self.0
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|class| class.name.clone()).collect()
    }

    /// Number of classes, the background included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Index of the class with this value.
    pub fn index_of(&self, value: u8) -> Option<usize> {
        self.0.iter().position(|class| class.value == value)
    }

    /// Replaces values by indices.
    ///
    /// # Errors
    /// A value that stands for no class; the labels may then be partly changed.
    pub fn to_indices(&self, labels: &mut Array3<u8>) -> Result<(), u8> {
        let mut indices = [None; 256];
        for (index, class) in (0..=u8::MAX).zip(&self.0) {
            indices[usize::from(class.value)] = Some(index);
        }
        let mut unknown = None;
        labels.map_inplace(|label| match indices[usize::from(*label)] {
            Some(index) => *label = index,
            None => unknown = Some(*label),
        });
        unknown.map_or(Ok(()), Err)
    }

    /// Replaces indices by values. An index that is not in the table is kept.
    pub fn to_values(&self, labels: &mut Array3<u8>) {
        labels.map_inplace(|label| {
            *label = self.0.get(usize::from(*label)).map_or(*label, |class| class.value)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(labels: &[u8]) -> Array3<u8> {
        Array3::from_shape_vec((1, 1, labels.len()), labels.to_vec()).unwrap()
    }

    #[test]
    fn values_with_gaps_are_as_many_classes_as_there_are_values() {
        let table = ClassTable::of_values([250, 7, 0, 7]);
        assert_eq!(table.names(), ["background", "class_7", "class_250"]);
        let mut labels = volume(&[0, 7, 250, 7]);
        table.to_indices(&mut labels).unwrap();
        assert_eq!(labels, volume(&[0, 1, 2, 1]));
        table.to_values(&mut labels);
        assert_eq!(labels, volume(&[0, 7, 250, 7]));
        assert_eq!(table.to_indices(&mut volume(&[0, 8])), Err(8));
    }

    #[test]
    fn names_have_the_value_of_their_place_or_their_own() {
        let values = |names: &[&str]| {
            let table = ClassTable::parse(names).unwrap();
            table.classes().iter().map(|class| (class.value, class.name.clone())).collect::<Vec<_>>()
        };
        let expected = |classes: &[(u8, &str)]| {
            classes.iter().map(|&(value, name)| (value, name.to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(values(&["background", "a"]), expected(&[(0, "background"), (1, "a")]));
        assert_eq!(values(&["250=b", "7=a"]), expected(&[(0, "background"), (7, "a"), (250, "b")]));
        for wrong in [&["a", "a"][..], &["0=a", "0=b"], &["256=a"], &["x=a"]] {
            assert!(ClassTable::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
