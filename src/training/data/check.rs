//! Checks the cases of a run before the first step for faults that would stop it after hours, or make it learn the
//! wrong thing.

use std::collections::BTreeSet;

use crate::survey::{Expected, Found, Problem, Severity, Survey, find};
use crate::training::config::{Divided, TrainingConfig};
use crate::training::error::TrainingError;
use crate::volume::{CaseFiles, ClassTable, masks_of_classes};

/// The cases of a configuration, in their roles.
#[derive(Debug)]
pub struct Cases {
    /// The cases in their roles. Some may have no labels, which is then among the problems.
    divided: Divided,
    /// Problems found so far.
    problems: Vec<Problem>,
}

/// Finds the cases of a configuration and divides them.
///
/// # Errors
/// [`TrainingError::Volume`] and [`TrainingError::Split`].
pub fn find_cases(config: &TrainingConfig) -> Result<Cases, TrainingError> {
    let data = &config.data;
    let Found { mut cases, mut problems, json, .. } =
        find(&data.folder, data.labels.as_deref(), Some(config.model.modalities.len()))?;
    let masks = cases.iter_mut().filter_map(|case| case.labels.as_mut());
    let others = masks_of_classes(masks, &ClassTable::of_names(expected(config).classes))?;
    if !others.is_empty() {
        let text =
            format!("{}: masks that are no class of the model: {}", data.folder.display(), others.join(", "));
        problems.push(Problem::note(text));
    }
    let divided = data.split.divide(cases, data.patient.as_deref(), &data.folder)?;
    let used: BTreeSet<&str> = divided.all().map(|case| case.case_id.as_str()).collect();
    let is_of_run = |problem: &Problem| problem.case.as_deref().is_none_or(|case| used.contains(case));
    let mut problems: Vec<Problem> = problems.into_iter().filter(is_of_run).collect();
    problems.extend(json.and_then(|json| json.contradiction(&expected(config).classes)));
    Ok(Cases { divided, problems })
}

/// The cases of the dataset in their roles; all have labels. Their files are not opened.
///
/// # Errors
/// Those of [`find_cases`]; [`TrainingError::Dataset`] with the first error found from the names.
pub fn divide(config: &TrainingConfig) -> Result<Divided, TrainingError> {
    let Cases { divided, problems } = find_cases(config)?;
    match problems.into_iter().find(|problem| problem.severity == Severity::Error) {
        Some(problem) => Err(TrainingError::Dataset { text: problem.text }),
        None => Ok(divided),
    }
}

/// What a configuration expects of its cases.
fn expected(config: &TrainingConfig) -> Expected {
    let names = config.model.classes.iter().cloned();
    let classes = config.label_values().into_iter().zip(names);
    Expected {
        classes: classes.collect(),
        ignore: config.data.ignore.clone(),
        regrid: config.data.regrid(),
        modalities: Some(config.model.modalities.len()),
    }
}

impl Cases {
    /// Number of cases.
    pub fn len(&self) -> usize {
        self.divided.all().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Examines all cases; `done` is called after each.
    pub fn survey(&self, config: &TrainingConfig, done: impl Fn() + Sync) -> Survey {
        let cases: Vec<CaseFiles> = self.divided.all().cloned().collect();
        Survey::of(config.data.folder.clone(), &cases, &expected(config), self.problems.clone(), done)
    }

    /// The cases, if training on them is possible; logs all problems.
    ///
    /// # Errors
    /// [`TrainingError::Dataset`].
    pub fn accepted(self, survey: &Survey) -> Result<Divided, TrainingError> {
        let errors = survey.errors();
        for Problem { severity, text, .. } in &survey.problems {
            match severity {
                Severity::Error if errors == 1 => return Err(TrainingError::Dataset { text: text.clone() }),
                Severity::Error => tracing::error!("{text}"),
                Severity::Warning => tracing::warn!("{text}"),
                Severity::Note => tracing::info!("{text}"),
            }
        }
        if errors == 0 {
            return Ok(self.divided);
        }
        let text = format!(
            "{}: {errors} errors in the dataset, listed above; nothing is trained on it",
            survey.dataset.display()
        );
        Err(TrainingError::Dataset { text })
    }
}
