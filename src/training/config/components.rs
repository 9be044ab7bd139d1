//! Which connected components a model keeps: given, or decided when it is trained.

use serde::{Deserialize, Serialize};

use crate::bundle::LargestComponent;

/// A rule for the bundle's [`LargestComponent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "largest_component: expected true, false, a list of classes or by_validation")]
pub enum ComponentRule {
    /// As given.
    Given(LargestComponent),
    /// To be decided.
    Decided(Decision),
}

/// How it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Each class whose mean Dice over the validation cases is higher with only its largest component.
    ByValidation,
}

impl Default for ComponentRule {
    fn default() -> Self {
        Self::Given(LargestComponent::default())
    }
}

impl From<bool> for ComponentRule {
    fn from(of_foreground: bool) -> Self {
        Self::Given(of_foreground.into())
    }
}

impl ComponentRule {
    /// The rule as `by_validation`.
    pub fn by_validation() -> Self {
        Self::Decided(Decision::ByValidation)
    }

    /// Whether all components are kept, as given.
    pub fn keeps_all(&self) -> bool {
        matches!(self, Self::Given(rule) if rule.keeps_all())
    }

    /// Whether it is decided by validation.
    pub fn is_by_validation(&self) -> bool {
        matches!(self, Self::Decided(Decision::ByValidation))
    }

    /// What is given; all components as long as it is undecided.
    pub fn given(&self) -> LargestComponent {
        match self {
            Self::Given(rule) => rule.clone(),
            Self::Decided(_) => LargestComponent::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        let read = |text: &str| serde_yaml::from_str::<ComponentRule>(text);
        assert_eq!(read("by_validation").unwrap(), ComponentRule::by_validation());
        assert_eq!(read("true").unwrap(), true.into());
        let classes = LargestComponent::OfClasses(vec!["liver".into()]);
        assert_eq!(read("[liver]").unwrap(), ComponentRule::Given(classes));
        for text in ["by_validation", "true", "[liver]"] {
            let rule = read(text).unwrap();
            assert_eq!(read(&serde_yaml::to_string(&rule).unwrap()).unwrap(), rule);
        }
        assert!(ComponentRule::by_validation().given().keeps_all());
        assert!(read("validation").unwrap_err().to_string().contains("by_validation"));
    }
}
