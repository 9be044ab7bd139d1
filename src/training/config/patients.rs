//! Finds out which cases are of one patient, so that no patient is on both sides of a split.
//!
//! By default the patient follows from the case's name, which is divided at `_`, `-`, `.` and blanks. A piece such
//! as `patient012` is the patient (`patient012` in ACDC's `patient012_frame01`); after a word such as `sub`, the
//! next piece is (`01` in BIDS' `sub-01_ses-02_T1w`). Otherwise, pieces that all names share (`hippocampus`) are
//! ignored, and the first remaining piece with a digit is the patient: `10000` in `10000_1000000` (PI-CAI), `00005`
//! in `BraTS-GLI-00005-100`. A name without such a piece is a separate patient. `data.patient` gives another rule.

use std::collections::BTreeSet;

use regex::Regex;

/// Words in front of a patient's number or label.
const PATIENT: [&str; 8] = ["patient", "pat", "subject", "subj", "sub", "case", "pt", "volunteer"];

/// The patient of each case. `rule` is a regular expression; its first group, or the whole match if it has no group,
/// is the patient.
///
/// # Errors
/// One line for a rule that is not a regular expression or does not match a case.
pub fn patients(case_ids: &[&str], rule: Option<&str>) -> Result<Vec<String>, String> {
    match rule {
        None => Ok(by_names(case_ids)),
        Some(rule) => {
            let regex = parse(rule)?;
            let patient = |case: &&str| {
                let found = regex.captures(case).and_then(|found| found.get(1).or_else(|| found.get(0)));
                let patient = found.map(|found| found.as_str().to_owned()).filter(|found| !found.is_empty());
                patient.ok_or_else(|| format!("data.patient `{rule}` finds no patient in case {case}"))
            };
            case_ids.iter().map(patient).collect()
        }
    }
}

/// Checks a rule.
///
/// # Errors
/// Why it is not valid.
pub(super) fn parse(rule: &str) -> Result<Regex, String> {
    let wrong = |error: regex::Error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("data.patient: `{rule}` is not a regular expression: {reason}")
    };
    Regex::new(rule).map_err(wrong)
}

fn by_names(case_ids: &[&str]) -> Vec<String> {
    let of_all = case_ids.iter().map(|case| pieces(case).collect::<BTreeSet<_>>());
    let shared = of_all.reduce(|shared, of_case| &shared & &of_case).unwrap_or_default();
    let has_digit = |piece: &str| piece.bytes().any(|byte| byte.is_ascii_digit());
    let patient = |case: &&str| {
        let own = || pieces(case).find(|piece| !shared.contains(piece) && has_digit(piece));
        named_patient(case).or_else(own).unwrap_or(case).to_owned()
    };
    case_ids.iter().map(patient).collect()
}

/// The piece of a name that is marked as the patient by a word.
fn named_patient(case_id: &str) -> Option<&str> {
    let mut pieces = pieces(case_id);
    while let Some(piece) = pieces.next() {
        let word = piece.trim_end_matches(|c: char| c.is_ascii_digit()).to_lowercase();
        if PATIENT.contains(&word.as_str()) {
            return if word.len() < piece.len() { Some(piece) } else { pieces.next() };
        }
    }
    None
}

fn pieces(case_id: &str) -> impl Iterator<Item = &str> {
    case_id.split(['_', '-', '.', ' ']).filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(case_ids: &[&str]) -> Vec<String> {
        patients(case_ids, None).unwrap()
    }

    #[test]
    fn names_of_known_datasets_tell_the_patient() {
        for (names, expected) in [
            (
                ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
                ["patient001", "patient001", "patient002"],
            ),
            (["hippocampus_001", "hippocampus_003", "hippocampus_017"], ["001", "003", "017"]),
            (["sub-01_ses-01_T1w", "sub-01_ses-02_T1w", "sub-12_ses-01_T1w"], ["01", "01", "12"]),
            (["10000_1000000", "10000_1000001", "10001_1000002"], ["10000", "10000", "10001"]),
            (
                ["BraTS-GLI-00005-100", "BraTS-GLI-00005-101", "BraTS-GLI-00006-100"],
                ["00005", "00005", "00006"],
            ),
            (["BraTS2021_00000", "BraTS2021_00002", "BraTS2021_00003"], ["00000", "00002", "00003"]),
            (["img0001", "img0002", "img0003"], ["img0001", "img0002", "img0003"]),
            (["A0S9V9_sa_ED", "A0S9V9_sa_ES", "A1D0Q7_sa_ED"], ["A0S9V9", "A0S9V9", "A1D0Q7"]),
            (["anna_left", "anna_right", "berta_left"], ["anna_left", "anna_right", "berta_left"]),
        ] {
            assert_eq!(found(&names), expected);
        }
        assert_eq!(found(&["s1"]), ["s1"], "one case is one patient");
        let one = ["patient001_frame01", "patient001_frame12"];
        assert_eq!(found(&one), ["patient001"; 2], "the only patient is one, too");
        assert_eq!(found(&["sub-amu01_ses-1", "sub-amu01_ses-2"]), ["amu01"; 2]);
    }

    #[test]
    fn a_rule_of_the_configuration_comes_first_and_mistakes_are_named() {
        let names = ["anna_left", "anna_right", "berta_left"];
        assert_eq!(patients(&names, Some("^([a-z]+)_")).unwrap(), ["anna", "anna", "berta"]);
        assert_eq!(patients(&names, Some("^[a-z]+")).unwrap(), ["anna", "anna", "berta"]);
        let error = patients(&names, Some("([0-9]+)")).unwrap_err();
        assert!(error.contains("data.patient") && error.contains("anna_left"), "{error}");
        let error = patients(&names, Some("([a-z")).unwrap_err();
        assert!(error.contains("data.patient") && !error.contains('\n'), "{error}");
    }
}
