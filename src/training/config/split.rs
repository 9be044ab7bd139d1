//! Which cases are learned from and which validate.

use std::collections::BTreeSet;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::training::error::TrainingError;
use crate::volume::CaseFiles;

/// A rule that divides the cases of a dataset, which come in natural order of their names. A patient is the first
/// number in a case's name (`patient012_frame01` and `patient012_frame13` are one), or the whole name without any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Split {
    /// Case number `offset`, `offset + n`, … validate, counted from 0.
    EveryNth {
        /// Distance between validation cases, at least 2.
        n: usize,
        /// The first of them. Default 0.
        #[serde(default)]
        offset: usize,
    },
    /// By the last digit of the patient's number.
    LastDigit {
        /// Patients whose number ends in one of these digits validate.
        validation: Vec<u8>,
        /// Patients whose number ends in one of these are left out, for a test. Default none.
        #[serde(default)]
        left_out: Vec<u8>,
    },
    /// Names of cases, or of patients as they begin the names of cases (`patient012`). Other cases are left out.
    Lists {
        /// To learn from.
        training: Vec<String>,
        /// To validate on.
        validation: Vec<String>,
    },
    /// One of several folds validates; patients are dealt to the folds at random.
    Folds {
        /// Number of folds, at least 2. nnU-Net has 5.
        count: usize,
        /// The fold that validates, from 0.
        index: usize,
        /// Seed of the dealing. Default 0.
        #[serde(default)]
        seed: u64,
    },
}

/// Cases in two roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divided {
    /// To learn from.
    pub training: Vec<CaseFiles>,
    /// To validate on.
    pub validation: Vec<CaseFiles>,
}

impl Split {
    /// Divides the cases found in `folder`.
    ///
    /// # Errors
    /// [`TrainingError::Split`] where nothing is left to learn from or to validate on, or a name in a list is no
    /// case's, or is in both lists.
    pub fn divide(&self, cases: Vec<CaseFiles>, folder: &Path) -> Result<Divided, TrainingError> {
        let wrong = |reason: String| TrainingError::Split { path: folder.into(), reason };
        let roles: Vec<Option<bool>> = match self {
            Self::EveryNth { n, offset } => {
                (0..cases.len()).map(|index| Some(index % n == offset % n)).collect()
            }
            Self::LastDigit { validation, left_out } => {
                let role = |case: &CaseFiles| {
                    let last = patient(&case.case_id).chars().last().and_then(|last| last.to_digit(10));
                    let is_in = |digits: &[u8]| {
                        last.is_some_and(|last| digits.iter().any(|&digit| u32::from(digit) == last))
                    };
                    (!is_in(left_out)).then(|| is_in(validation))
                };
                cases.iter().map(role).collect()
            }
            Self::Lists { training, validation } => {
                for name in training.iter().chain(validation) {
                    if !cases.iter().any(|case| is_named(&case.case_id, name)) {
                        return Err(wrong(format!("no case is called {name}")));
                    }
                }
                let named =
                    |case: &CaseFiles, list: &[String]| list.iter().any(|name| is_named(&case.case_id, name));
                if let Some(case) = cases.iter().find(|case| named(case, training) && named(case, validation))
                {
                    return Err(wrong(format!("case {} is in both lists", case.case_id)));
                }
                let role = |case| match (named(case, training), named(case, validation)) {
                    (false, false) => None,
                    (_, validates) => Some(validates),
                };
                cases.iter().map(role).collect()
            }
            Self::Folds { count, index, seed } => {
                let patients: BTreeSet<&str> = cases.iter().map(|case| patient(&case.case_id)).collect();
                let mut dealt: Vec<&str> = patients.into_iter().collect();
                dealt.shuffle(&mut Pcg64::seed_from_u64(*seed));
                let validates: BTreeSet<&str> = dealt.into_iter().skip(*index).step_by(*count).collect();
                cases.iter().map(|case| Some(validates.contains(patient(&case.case_id)))).collect()
            }
        };
        let mut divided = Divided { training: Vec::new(), validation: Vec::new() };
        for (case, role) in cases.into_iter().zip(roles) {
            match role {
                Some(true) => divided.validation.push(case),
                Some(false) => divided.training.push(case),
                None => {}
            }
        }
        if divided.training.is_empty() {
            return Err(wrong("the split leaves no case to learn from".into()));
        } else if divided.validation.is_empty() {
            return Err(wrong("the split leaves no case to validate on".into()));
        }
        Ok(divided)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::EveryNth { n, .. } if *n < 2 => Err("data.split.every_nth.n must be at least 2".into()),
            Self::Folds { count, index, .. } if *count < 2 || index >= count => {
                Err("data.split.folds: count must be at least 2 and index under it".into())
            }
            _ => Ok(()),
        }
    }
}

fn is_named(case_id: &str, name: &str) -> bool {
    case_id.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// The first number in a name, or the name.
fn patient(case_id: &str) -> &str {
    let is_digit = |c: char| c.is_ascii_digit();
    match case_id.find(is_digit) {
        Some(start) => {
            let number = &case_id[start..];
            &number[..number.find(|c| !is_digit(c)).unwrap_or(number.len())]
        }
        None => case_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(names: &[String]) -> Vec<CaseFiles> {
        let case = |case_id: &String| CaseFiles { case_id: case_id.clone(), images: vec![], labels: None };
        names.iter().map(case).collect()
    }

    fn acdc() -> Vec<CaseFiles> {
        let names = (1..=20).flat_map(|p| [1, 12].map(|f| format!("patient{p:03}_frame{f:02}")));
        cases(&names.collect::<Vec<_>>())
    }

    fn validation(split: &Split, cases: Vec<CaseFiles>) -> Vec<String> {
        let divided = split.divide(cases, Path::new("data")).unwrap();
        divided.validation.into_iter().map(|case| case.case_id).collect()
    }

    #[test]
    fn every_tenth_case_validates() {
        let names: Vec<String> = (1..=208).map(|n| format!("hippocampus_{n:03}")).collect();
        let found = validation(&Split::EveryNth { n: 10, offset: 0 }, cases(&names));
        assert_eq!((found.len(), found[0].as_str()), (21, "hippocampus_001"));
        assert_eq!(found[1], "hippocampus_011");
    }

    #[test]
    fn patients_are_never_divided() {
        let last_digit = |left_out| Split::LastDigit { validation: vec![3], left_out };
        let found = validation(&last_digit(vec![]), acdc());
        assert_eq!(
            found,
            ["patient003_frame01", "patient003_frame12", "patient013_frame01", "patient013_frame12"]
        );
        let divided = last_digit(vec![0, 5]).divide(acdc(), Path::new("data")).unwrap();
        assert_eq!((divided.training.len(), divided.validation.len()), (28, 4), "70 : 10 : 20");
        let folds: Vec<Vec<String>> =
            (0..4).map(|index| validation(&Split::Folds { count: 4, index, seed: 7 }, acdc())).collect();
        let mut all = folds.concat();
        all.sort();
        assert_eq!(all.len(), 40);
        assert!(folds.iter().all(|fold| fold.chunks(2).all(|pair| patient(&pair[0]) == patient(&pair[1]))));
    }

    #[test]
    fn lists_name_cases_or_patients_and_mistakes_are_named() {
        let lists = |training: &[&str], validation: &[&str]| Split::Lists {
            training: training.iter().map(|name| (*name).into()).collect(),
            validation: validation.iter().map(|name| (*name).into()).collect(),
        };
        let split = lists(&["patient001", "patient002_frame01"], &["patient003"]);
        let divided = split.divide(acdc(), Path::new("data")).unwrap();
        assert_eq!((divided.training.len(), divided.validation.len()), (3, 2));
        let error = |split: Split| split.divide(acdc(), Path::new("data")).unwrap_err().to_string();
        assert_eq!(error(lists(&["patient00"], &["patient003"])), "data: no case is called patient00");
        assert!(error(lists(&["patient003"], &["patient003_frame01"])).contains("both"));
        assert!(error(lists(&[], &["patient003"])).contains("learn from"));
    }
}
