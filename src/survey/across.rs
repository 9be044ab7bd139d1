//! Problems between the cases of a dataset.

use std::collections::HashMap;

use super::case::Examined;
use super::{Expected, Problem, Severity};
use crate::volume::{CaseFiles, Header, Regrid, TargetGrid, check_grid};

/// Finds problems that are visible only in all cases together.
pub(super) fn problems(cases: &[CaseFiles], examined: &[Examined], expected: &Expected) -> Vec<Problem> {
    let mut problems = exchanged(cases, examined);
    problems.extend(same_images(cases, examined));
    problems.extend(nowhere(examined, expected));
    problems
}

/// Pairs of cases whose labels are each on the grid of the other's image.
fn exchanged(cases: &[CaseFiles], examined: &[Examined]) -> Vec<Problem> {
    let off_grid = cases.iter().zip(examined).filter(|(_, examined)| examined.is_off_grid);
    let headers: Vec<(&CaseFiles, Header, Header)> = off_grid
        .filter_map(|(case, _)| {
            let image = Header::read(case.images.first()?).ok()?;
            Some((case, image, Header::read(case.labels.as_ref()?.files().first()?).ok()?))
        })
        .collect();
    let fits = |labels: &Header, image: &Header| {
        check_grid(labels, &TargetGrid::from(image), Regrid::Refuse).is_ok()
    };
    let mut problems = Vec::new();
    for (index, (case, image, labels)) in headers.iter().enumerate() {
        for (other, other_image, other_labels) in &headers[index + 1..] {
            if fits(labels, other_image) && fits(other_labels, image) {
                let text = format!(
                    "{} and {}: each lies on the grid of the other's image ({} and {}); their names seem to be exchanged",
                    labels.path().display(),
                    other_labels.path().display(),
                    case.case_id,
                    other.case_id
                );
                problems.push(Problem::new(Severity::Error, Some(&case.case_id), text));
            }
        }
    }
    problems
}

/// Cases with the same voxels: one patient under two names could be on both sides of a split.
fn same_images(cases: &[CaseFiles], examined: &[Examined]) -> Vec<Problem> {
    let mut first: HashMap<Vec<u32>, &CaseFiles> = HashMap::new();
    let mut problems = Vec::new();
    for (case, examined) in cases.iter().zip(examined) {
        let (Some(facts), Some(sample)) = (&examined.facts, examined.sample.first()) else { continue };
        if facts.channels.iter().all(|channel| channel.min == channel.max) {
            continue;
        }
        let shape = facts.shape.map(|side| side as u32);
        let key = shape.into_iter().chain(sample.iter().map(|value| value.to_bits())).collect();
        let Some(other) = first.insert(key, case) else { continue };
        let [one, two] = [other, case].map(|case| case.images[0].display().to_string());
        let text = format!("{two}: the same voxels as {one}");
        problems.push(Problem::new(Severity::Warning, Some(&case.case_id), text));
    }
    problems
}

/// Classes that occur in no case.
fn nowhere(examined: &[Examined], expected: &Expected) -> Vec<Problem> {
    let labels = || examined.iter().filter_map(|case| case.facts.as_ref()?.labels.as_ref());
    if labels().next().is_none() {
        return Vec::new();
    }
    let is_nowhere = |value: &u8| !labels().any(|counts| counts.contains_key(value));
    let absent = expected.classes.iter().filter(|(value, _)| **value != 0 && is_nowhere(value));
    let text = |(value, name): (&u8, &String)| {
        Problem::new(Severity::Warning, None, format!("class {value} `{name}` is in no case"))
    };
    absent.map(text).collect()
}
