//! The configuration with which a run was started, kept next to its checkpoints (`checkpoints/run.yml`), and the
//! check whether the run may be resumed with the present one. Only fields that do not change the training, or that
//! are changed on purpose, may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::files::write_atomically;
use crate::training::config::{Divided, TrainingConfig};
use crate::training::error::TrainingError;
use crate::training::state::Checkpoints;
use crate::volume::CaseFiles;

/// Fields that may differ when a run is resumed, with all fields below them: paths (the cases must be the same, and
/// weights have their sha256), the length of the run and the times of its events, memory, threads, the compute type
/// (checkpoints are fp32), and the name in reports.
const MAY_CHANGE: [&str; 14] = [
    "output",
    "start_from",
    "precision",
    "prefetch",
    "data.folder",
    "data.labels",
    "data.patient",
    "data.memory_mib",
    "model.name",
    "model.weights.file",
    "schedule.epochs",
    "schedule.validate_every_epochs",
    "schedule.checkpoint_every_epochs",
    "schedule.log_every_steps",
];

/// Longest value that is quoted completely, characters.
const MOST_CHARACTERS: usize = 80;

/// The file's contents.
#[derive(Serialize, Deserialize)]
struct RunRecord {
    /// The configuration, as a YAML value, so that files of versions with other fields can be compared.
    config: Value,
    /// Names of the training cases.
    training: Vec<String>,
    /// Names of the validation cases.
    validation: Vec<String>,
}

impl TrainingConfig {
    fn record_path(&self) -> PathBuf {
        self.output.join("checkpoints/run.yml")
    }

    /// Records the configuration with which the run is started or resumed.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write_record(&self, cases: &Divided) -> Result<(), TrainingError> {
        let path = self.record_path();
        let folder = self.output.join("checkpoints");
        fs::create_dir_all(&folder).map_err(TrainingError::io(folder))?;
        let record = serde_yaml::to_value(self).and_then(|config| {
            let (training, validation) = (names(&cases.training), names(&cases.validation));
            serde_yaml::to_string(&RunRecord { config, training, validation })
        });
        let yaml = record.map_err(|source| TrainingError::Parse { path: path.clone(), source })?;
        write_atomically(&path, |file| file.write_all(yaml.as_bytes())).map_err(TrainingError::io(path))
    }

    /// Fails if the run in the output folder has a checkpoint and was started with another configuration or, if
    /// `cases` are given, with other cases; fields that may change are ignored.
    ///
    /// # Errors
    /// [`TrainingError::Config`] naming each field with its old and its new value; a record that cannot be read.
    pub fn check_resumed(&self, cases: Option<&Divided>) -> Result<(), TrainingError> {
        if !Checkpoints::new(self.output.join("checkpoints")).has_complete() {
            return Ok(());
        }
        let path = self.record_path();
        if !path.exists() {
            tracing::warn!(
                "{}: missing; cannot check whether the configuration is that of the checkpoints",
                path.display()
            );
            return Ok(());
        }
        let parse = |source| TrainingError::Parse { path: path.clone(), source };
        let text = fs::read_to_string(&path).map_err(TrainingError::io(&path))?;
        let record: RunRecord = serde_yaml::from_str(&text).map_err(parse)?;
        // Fields that are new in this version get their defaults.
        let begun = match serde_yaml::from_value::<Self>(record.config.clone()) {
            Ok(config) => serde_yaml::to_value(config).map_err(parse)?,
            Err(_) => record.config.clone(),
        };
        let mut changed = Vec::new();
        let now = serde_yaml::to_value(self).map_err(parse)?;
        differences(String::new(), Some(&begun), Some(&now), &mut changed);
        let (free, refused): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(field, _)| may_change(field));
        for (field, change) in free.iter().filter(|(field, _)| field.starts_with("schedule.")) {
            tracing::info!("resuming with another {field}: {change}");
        }
        let mut reasons: Vec<String> =
            refused.into_iter().map(|(field, change)| format!("{field} {change}")).collect();
        reasons.extend(cases.and_then(|cases| record.other_cases(cases)));
        if reasons.is_empty() {
            return Ok(());
        }
        let reason = format!(
            "cannot go on, as the run was begun otherwise: {}. Go on with what it was begun with, or begin another run in \
             another output folder (start_from takes over its bundle)",
            reasons.join("; ")
        );
        Err(TrainingError::Config { path: self.output.clone(), reason })
    }
}

impl RunRecord {
    /// The first difference between the cases; `None` if they are the same.
    fn other_cases(&self, now: &Divided) -> Option<String> {
        let roles = |training: &[String], validation: &[String]| -> BTreeMap<String, &'static str> {
            let learned = training.iter().map(|case| (case.clone(), "for training"));
            learned.chain(validation.iter().map(|case| (case.clone(), "for validation"))).collect()
        };
        let before = roles(&self.training, &self.validation);
        let now = roles(&names(&now.training), &names(&now.validation));
        let all: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let mut differing = all.into_iter().filter(|case| before.get(*case) != now.get(*case));
        let first = differing.next()?;
        let more = match differing.count() {
            0 => String::new(),
            count => format!(" (and {count} more cases)"),
        };
        let role = |roles: &BTreeMap<String, &'static str>| roles.get(first).copied().unwrap_or("not there");
        Some(format!("case {first} was {} and is {}{more}", role(&before), role(&now)))
    }
}

fn names(cases: &[CaseFiles]) -> Vec<String> {
    cases.iter().map(|case| case.case_id.clone()).collect()
}

fn may_change(field: &str) -> bool {
    let is_below =
        |free: &&str| field.strip_prefix(*free).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    MAY_CHANGE.iter().any(is_below)
}

/// Adds each field that differs, with its dotted name, and the difference.
fn differences(
    field: String,
    before: Option<&Value>,
    now: Option<&Value>,
    changed: &mut Vec<(String, String)>,
) {
    if before == now {
        return;
    }
    if let (Some(Value::Mapping(before)), Some(Value::Mapping(now))) = (before, now) {
        let added = now.keys().filter(|key| !before.contains_key(*key));
        for key in before.keys().chain(added) {
            let name = text(Some(key));
            let field = if field.is_empty() { name } else { format!("{field}.{name}") };
            differences(field, before.get(key), now.get(key), changed);
        }
        return;
    }
    changed.push((field, format!("was {} and is {}", text(before), text(now))));
}

fn text(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "absent".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => serde_json::to_string(value).unwrap_or_default(),
    };
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::training::{LearningRate, Manifest};

    fn cases(training: &[&str], validation: &[&str]) -> Divided {
        let files = |names: &[&str]| {
            let case = |name: &&str| CaseFiles { case_id: (*name).into(), images: vec![], labels: None };
            names.iter().map(case).collect()
        };
        Divided { training: files(training), validation: files(validation) }
    }

    /// A shipped configuration with a checkpoint.
    fn begun(folder: &Path) -> TrainingConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus.yml");
        let mut config = TrainingConfig::open(&path).unwrap();
        config.output = folder.to_path_buf();
        config.write_record(&cases(&["a", "b"], &["c"])).unwrap();
        let shards = BTreeMap::new();
        let manifest = Manifest { step: 1, seconds: 1.0, best: None, shards };
        Checkpoints::new(folder.join("checkpoints")).write_shard(1, "encoder", &BTreeMap::new()).unwrap();
        Checkpoints::new(folder.join("checkpoints")).complete(&manifest).unwrap();
        config
    }

    #[test]
    fn what_changes_the_training_is_refused_with_old_and_new_value() {
        let folder = tempfile::tempdir().unwrap();
        let config = begun(folder.path());
        config.check_resumed(Some(&cases(&["a", "b"], &["c"]))).unwrap();
        let mut changed = config.clone();
        changed.seed = 7;
        changed.model.classes[1] = "front".into();
        changed.learning_rate = LearningRate::Poly { initial: 0.01, exponent: 0.9 };
        changed.model.spacing_mm = None;
        let error = changed.check_resumed(None).unwrap_err().to_string();
        for part in [
            "seed was 0 and is 7",
            r#"model.classes was ["background","anterior","posterior"] and is ["background","front","posterior"]"#,
            "model.spacing_mm was [1.0,1.0,1.0] and is absent",
            "learning_rate.poly was absent and is",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains('\n') && error.starts_with(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn what_does_not_change_the_training_may_differ() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = begun(folder.path());
        let moved = tempfile::tempdir().unwrap();
        fs::rename(folder.path().join("checkpoints"), moved.path().join("checkpoints")).unwrap();
        config.output = moved.path().to_path_buf();
        config.data.folder = "/elsewhere".into();
        config.data.memory_mib = 1;
        config.prefetch.threads = 3;
        config.precision = crate::compute::Precision::Fp32;
        config.schedule.epochs += 10;
        config.model.weights.as_mut().unwrap().file = "/elsewhere/weights.pth".into();
        config.check_resumed(Some(&cases(&["a", "b"], &["c"]))).unwrap();
        config.model.weights.as_mut().unwrap().sha256 = "0".repeat(64);
        assert!(config.check_resumed(None).unwrap_err().to_string().contains("model.weights.sha256"));
    }

    #[test]
    fn other_cases_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let config = begun(folder.path());
        let error = |now: &Divided| config.check_resumed(Some(now)).unwrap_err().to_string();
        let swapped = error(&cases(&["a", "c"], &["b"]));
        assert!(
            swapped.contains("case b was for training and is for validation (and 1 more cases)"),
            "{swapped}"
        );
        assert!(error(&cases(&["a"], &["c"])).contains("case b was for training and is not there."));
    }

    #[test]
    fn a_run_without_a_checkpoint_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = begun(folder.path());
        fs::remove_dir_all(folder.path().join("checkpoints/step-00000001")).unwrap();
        config.seed = 7;
        config.check_resumed(None).unwrap();
    }
}
