//! Checks of a dataset before training: its contents, and all problems (nnU-Net's "fingerprint" and
//! `verify_dataset_integrity`).
//!
//! ```text
//! folder ─ find ─► cases (dataset.json's pairs) ─ examine, in parallel ─► facts, problems of each case
//!                                                                   └ across ─► problems between cases; Fingerprint
//! ```

mod across;
mod case;
mod dataset_json;
mod find;
mod fingerprint;
mod text;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Serialize;

use crate::volume::{CaseFiles, IgnoreValues, Regrid};
pub use case::{CaseFacts, Intensities};
pub use dataset_json::DatasetJson;
pub use find::{Found, find};
pub use fingerprint::Fingerprint;
#[cfg(test)]
pub(crate) use fingerprint::channel;

/// Severity of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Training is not possible.
    Error,
    /// Training is possible, but this is probably a mistake.
    Warning,
    /// Information.
    Note,
}

/// A problem of a dataset, in one line that names the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its severity.
    pub severity: Severity,
    /// The case, if it concerns only one.
    pub case: Option<String>,
    /// The message.
    pub text: String,
}

impl Problem {
    fn new(severity: Severity, case: Option<&str>, text: impl Into<String>) -> Self {
        Self { severity, case: case.map(str::to_owned), text: text.into() }
    }
}

impl Problem {
    /// A note about the whole dataset.
    pub fn note(text: impl Into<String>) -> Self {
        Self::new(Severity::Note, None, text)
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {}", self.text)
    }
}

/// What cases are checked against.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Class names by value in label files, including the background; if empty, every value is a class.
    pub classes: BTreeMap<u8, String>,
    /// Values of ignored voxels.
    pub ignore: IgnoreValues,
    /// How to treat files on another grid than the image.
    pub regrid: Regrid,
    /// Number of image channels per case; absent = as many as the first case has.
    pub modalities: Option<usize>,
}

/// The results.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// Folder, list or file of the dataset.
    pub dataset: PathBuf,
    /// All cases together.
    pub fingerprint: Fingerprint,
    /// Each case that can be read.
    pub cases: Vec<CaseFacts>,
    /// Errors first.
    pub problems: Vec<Problem>,
}

impl Survey {
    /// Examines all `cases` of a dataset; each thread holds one in memory. `problems` are those found before; `done`
    /// is called after each case.
    pub fn of(
        dataset: PathBuf,
        cases: &[CaseFiles],
        expected: &Expected,
        mut problems: Vec<Problem>,
        done: impl Fn() + Sync,
    ) -> Self {
        let examined: Vec<case::Examined> = cases
            .par_iter()
            .map(|files| {
                let examined = case::examine(files, expected);
                done();
                examined
            })
            .collect();
        problems.extend(across::problems(cases, &examined, expected));
        let fingerprint = Fingerprint::of(&examined, expected);
        let mut facts = Vec::new();
        for case in examined {
            problems.extend(case.problems);
            facts.extend(case.facts);
        }
        problems.sort_by_key(|problem| problem.severity);
        Self { dataset, fingerprint, cases: facts, problems }
    }

    /// Number of problems that prevent training.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}
