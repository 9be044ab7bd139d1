//! Divides cases into training and validation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::patients::patients;
use crate::training::error::TrainingError;
use crate::volume::CaseFiles;

/// A rule that divides the patients of a dataset, in natural order of their cases' names. All cases of a patient are
/// on the same side; [`patients`] defines what a patient is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Split {
    /// Patients number `offset`, `offset + n`, … are for validation, counted from 0.
    EveryNth {
        /// Distance between validation patients, at least 2.
        n: usize,
        /// The first validation patient. Default 0.
        #[serde(default)]
        offset: usize,
    },
    /// By the last digit of the patient's number.
    LastDigit {
        /// Patients whose number ends in one of these digits are for validation.
        validation: Vec<u8>,
        /// Patients whose number ends in one of these digits are left out, for a test. Default none.
        #[serde(default)]
        left_out: Vec<u8>,
    },
    /// Names of cases, or of patients, which are prefixes of names of cases (`patient012`). Other cases are left
    /// out.
    Lists {
        /// For training.
        training: Vec<String>,
        /// For validation.
        validation: Vec<String>,
    },
    /// One of several folds is for validation; patients are assigned to folds randomly.
    Folds {
        /// Number of folds, at least 2. nnU-Net has 5.
        count: usize,
        /// The validation fold, from 0.
        index: usize,
        /// Seed of the random assignment. Default 0.
        #[serde(default)]
        seed: u64,
    },
}

/// The cases in their two roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divided {
    /// For training.
    pub training: Vec<CaseFiles>,
    /// For validation.
    pub validation: Vec<CaseFiles>,
}

impl Divided {
    /// Cases in both roles.
    pub fn all(&self) -> impl Iterator<Item = &CaseFiles> {
        self.training.iter().chain(&self.validation)
    }
}

impl Split {
    /// Divides the cases found in `folder`; `patient` is `data.patient`.
    ///
    /// # Errors
    /// [`TrainingError::Split`] if no case is left for training or validation, a name in a list is not that of a
    /// case, or a patient is in both lists.
    pub fn divide(
        &self,
        cases: Vec<CaseFiles>,
        patient: Option<&str>,
        folder: &Path,
    ) -> Result<Divided, TrainingError> {
        let wrong = |reason: String| TrainingError::Split { path: folder.into(), reason };
        let names: Vec<&str> = cases.iter().map(|case| case.case_id.as_str()).collect();
        let patients = patients(&names, patient).map_err(wrong)?;
        let roles = self.roles(&names, &patients).map_err(wrong)?;
        let mut divided = Divided { training: Vec::new(), validation: Vec::new() };
        let found = cases.len();
        for (case, role) in cases.into_iter().zip(roles) {
            match role {
                Some(true) => divided.validation.push(case),
                Some(false) => divided.training.push(case),
                None => {}
            }
        }
        let count = patients.iter().collect::<BTreeSet<_>>().len();
        let of = format!("out of the {found} cases (of {count} patients) found");
        if divided.training.is_empty() {
            return Err(wrong(format!("the split leaves no training case {of}")));
        } else if divided.validation.is_empty() {
            return Err(wrong(format!("the split leaves no validation case {of}")));
        }
        Ok(divided)
    }

    /// For each case whether it is for validation; `None` for cases that are left out.
    fn roles(&self, names: &[&str], patients: &[String]) -> Result<Vec<Option<bool>>, String> {
        match self {
            Self::EveryNth { n, offset } => {
                let mut numbers = BTreeMap::new();
                let role = |patient| {
                    let next = numbers.len();
                    Some(*numbers.entry(patient).or_insert(next) % n == offset % n)
                };
                Ok(patients.iter().map(role).collect())
            }
            Self::LastDigit { validation, left_out } => {
                let role = |patient: &String| {
                    let last = patient.bytes().rfind(u8::is_ascii_digit).map(|digit| digit - b'0');
                    let is_in = |digits: &[u8]| last.is_some_and(|last| digits.contains(&last));
                    (!is_in(left_out)).then(|| is_in(validation))
                };
                Ok(patients.iter().map(role).collect())
            }
            Self::Lists { training, validation } => by_lists(names, patients, [training, validation]),
            Self::Folds { count, index, seed } => {
                let all: BTreeSet<&String> = patients.iter().collect();
                let mut dealt: Vec<&String> = all.into_iter().collect();
                dealt.shuffle(&mut Pcg64::seed_from_u64(*seed));
                let validates: BTreeSet<&String> = dealt.into_iter().skip(*index).step_by(*count).collect();
                Ok(patients.iter().map(|patient| Some(validates.contains(patient))).collect())
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::EveryNth { n, .. } if *n < 2 => Err("data.split.every_nth.n must be at least 2".into()),
            Self::Folds { count, index, .. } if *count < 2 || index >= count => {
                Err("data.split.folds: count must be at least 2 and index below it".into())
            }
            _ => Ok(()),
        }
    }
}

fn is_named(case_id: &str, name: &str) -> bool {
    case_id.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Roles from lists of names, for training and for validation.
fn by_lists(
    names: &[&str],
    patients: &[String],
    lists: [&Vec<String>; 2],
) -> Result<Vec<Option<bool>>, String> {
    for name in lists.into_iter().flatten() {
        if !names.iter().any(|case| is_named(case, name)) {
            return Err(format!("no case is called {name}"));
        }
    }
    let mut roles = Vec::with_capacity(names.len());
    // For each patient, one of its cases and whether it is for validation.
    let mut seen: BTreeMap<&String, (&str, bool)> = BTreeMap::new();
    for (case, patient) in names.iter().zip(patients) {
        let role = match lists.map(|list| list.iter().any(|name| is_named(case, name))) {
            [false, false] => None,
            [true, true] => return Err(format!("case {case} is in both lists")),
            [_, validates] => Some(validates),
        };
        if let Some(validates) = role {
            let (other, role) = *seen.entry(patient).or_insert((case, validates));
            if role != validates {
                return Err(format!(
                    "the cases {other} and {case} are of one patient ({patient}) and stand on both sides of the split; \
                     if they are not, let data.patient say what a patient is"
                ));
            }
        }
        roles.push(role);
    }
    Ok(roles)
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
        let divided = split.divide(cases, None, Path::new("data")).unwrap();
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
        let divided = last_digit(vec![0, 5]).divide(acdc(), None, Path::new("data")).unwrap();
        assert_eq!((divided.training.len(), divided.validation.len()), (28, 4), "70 : 10 : 20");
        let folds: Vec<Vec<String>> =
            (0..4).map(|index| validation(&Split::Folds { count: 4, index, seed: 7 }, acdc())).collect();
        let mut all = folds.concat();
        all.sort();
        assert_eq!(all.len(), 40);
        assert!(folds.iter().all(|fold| fold.chunks(2).all(|pair| pair[0][..10] == pair[1][..10])));
        let every = |n, offset| validation(&Split::EveryNth { n, offset }, acdc());
        assert_eq!(every(10, 2), found, "patients 3 and 13, with both frames");
        let all: BTreeSet<String> = (0..3).flat_map(|offset| every(3, offset)).collect();
        assert_eq!(all.len(), 40, "every patient validates once");
        for offset in 0..3 {
            assert!(every(3, offset).chunks(2).all(|pair| pair[0][..10] == pair[1][..10]), "{offset}");
        }
    }

    #[test]
    fn lists_name_cases_or_patients_and_mistakes_are_named() {
        let lists = |training: &[&str], validation: &[&str]| Split::Lists {
            training: training.iter().map(|name| (*name).into()).collect(),
            validation: validation.iter().map(|name| (*name).into()).collect(),
        };
        let split = lists(&["patient001", "patient002_frame01"], &["patient003"]);
        let divided = split.divide(acdc(), None, Path::new("data")).unwrap();
        assert_eq!((divided.training.len(), divided.validation.len()), (3, 2));
        let error = |split: Split| split.divide(acdc(), None, Path::new("data")).unwrap_err().to_string();
        assert_eq!(error(lists(&["patient00"], &["patient003"])), "data: no case is called patient00");
        assert!(error(lists(&["patient003"], &["patient003_frame01"])).contains("both"));
        let divides = error(lists(&["patient003_frame12"], &["patient003_frame01"]));
        assert!(
            divides.contains("patient003_frame01 and patient003_frame12 are of one patient"),
            "{divides}"
        );
        let split = lists(&["patient003_frame12"], &["patient003_frame01"]);
        assert!(
            split.divide(acdc(), Some(".*"), Path::new("data")).is_ok(),
            "each case a patient of its own"
        );
        assert!(error(lists(&[], &["patient003"])).contains("no training case"));
    }
}
