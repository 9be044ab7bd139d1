//! Which connected components of a segmentation are kept.

use serde::{Deserialize, Serialize};

/// Post-processing of whole segmentations (nnU-Net's): islands beside the largest connected component become background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "largest_component: expected true, false or a list of classes")]
pub enum LargestComponent {
    /// `true`: only the largest component of the foreground, all classes together, is kept. For a single organ, or
    /// organs that touch. `false`: all components are kept.
    OfForeground(bool),
    /// Of each of these classes only its largest component is kept.
    OfClasses(Vec<String>),
}

impl Default for LargestComponent {
    fn default() -> Self {
        Self::OfForeground(false)
    }
}

impl From<bool> for LargestComponent {
    fn from(of_foreground: bool) -> Self {
        Self::OfForeground(of_foreground)
    }
}

impl LargestComponent {
    /// Whether all components are kept.
    pub fn keeps_all(&self) -> bool {
        match self {
            Self::OfForeground(is_on) => !is_on,
            Self::OfClasses(classes) => classes.is_empty(),
        }
    }

    /// Fails if a class is not one of `classes`, is the background (the first), or is named twice.
    pub(super) fn check(&self, classes: &[String]) -> Result<(), String> {
        let Self::OfClasses(named) = self else { return Ok(()) };
        for (place, name) in named.iter().enumerate() {
            if !classes.iter().skip(1).any(|class| class == name) {
                return Err(format!("largest_component: `{name}` is no class, or the background"));
            } else if named[..place].contains(name) {
                return Err(format!("largest_component: `{name}` is named twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_or_classes_are_read_and_mistakes_named() {
        let read = |text: &str| serde_yaml::from_str::<LargestComponent>(text);
        assert_eq!(read("true").unwrap(), true.into());
        assert!(read("false").unwrap().keeps_all() && read("[]").unwrap().keeps_all());
        let classes = read("[left, right]").unwrap();
        assert_eq!(read(&serde_yaml::to_string(&classes).unwrap()).unwrap(), classes);
        let names = ["background", "left", "right"].map(String::from);
        assert_eq!(classes.check(&names), Ok(()));
        assert!(classes.check(&names[..2]).unwrap_err().contains("`right` is no class"));
        assert!(read("[background]").unwrap().check(&names).unwrap_err().contains("background"));
        assert!(read("[left, left]").unwrap().check(&names).unwrap_err().contains("twice"));
        assert!(read("largest").unwrap_err().to_string().contains("true, false or a list of classes"));
    }
}
