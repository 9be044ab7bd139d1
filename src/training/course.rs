//! What goes with the steps of a run, wherever they are made: validations, checkpoints, curves, and the bundle at the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::TrainingError;
use super::checkpoint::{Best, Checkpoints, Manifest};
use super::config::TrainingConfig;
use super::export::export_bundle;
use super::schedule::Stage;
use super::split::Divided;
use super::tensors::Tensors;
use super::trainer::{StepReport, Trainer};
use super::validate::Validator;
use super::watch::Watch;
use crate::files::write_atomically;
use crate::volume::{CaseFiles, discover};

/// A run and where it stands.
pub struct Course {
    config: TrainingConfig,
    checkpoints: Checkpoints,
    validator: Validator,
    watch: Watch,
    best: Option<Best>,
}

/// A checkpoint that was read: what it says of itself, and the shards of its parts.
pub type Checkpoint = (Manifest, BTreeMap<String, Tensors>);

impl Course {
    /// Begins a run with its validation cases, or goes on with the one in the output folder: then its newest whole
    /// checkpoint is returned.
    ///
    /// # Errors
    /// An output folder that holds checkpoints already, unless `resume`; files that cannot be read or written.
    pub fn begin(
        config: &TrainingConfig,
        validation: Vec<CaseFiles>,
        resume: bool,
    ) -> Result<(Self, Option<Checkpoint>), TrainingError> {
        let checkpoints = config.checkpoints();
        if !resume {
            config.check_is_new()?;
        }
        fs::create_dir_all(&config.output).map_err(TrainingError::io(&config.output))?;
        config.write(&config.output.join("config.yml"))?;
        let last = if resume { checkpoints.newest()? } else { None };
        match &last {
            Some((manifest, _)) => tracing::info!("goes on after step {}", manifest.step),
            None if resume => {
                tracing::warn!("there is no checkpoint to go on from: starting at the beginning");
            }
            None => {}
        }
        let behind = last.as_ref().map_or((0, 0.0), |(manifest, _)| (manifest.step, manifest.seconds));
        let course = Self {
            watch: Watch::new(&config.output, &config.model.name, &config.schedule, behind)?,
            validator: Validator::new(validation, config.model.without_files()),
            best: last.as_ref().and_then(|(manifest, _)| manifest.best),
            config: config.clone(),
            checkpoints,
        };
        Ok((course, last))
    }

    /// A step is made; it took `seconds`, of which it `waited` for windows.
    pub fn learned(&mut self, report: StepReport, seconds: f64, waited: f64) {
        let slices = self.config.schedule.windows_per_step * self.config.model.patch.depth;
        self.watch.step(report, slices, seconds, waited);
    }

    /// Validates `trainer`; the last validation of a run is of all cases. Nothing is noted where `stop` is set meanwhile.
    ///
    /// # Errors
    /// A case that cannot be read.
    pub fn validate(&mut self, trainer: &Trainer, stop: &AtomicBool) -> Result<(), TrainingError> {
        let (schedule, step) = (&self.config.schedule, trainer.steps_done());
        let limit = schedule.validation_cases.filter(|_| !schedule.due(step).end);
        let stage = schedule.stage(step.saturating_sub(1));
        let Some(validated) = self.validator.validate(trainer, stage, limit, stop)? else {
            return Ok(());
        };
        // A bundle needs its decoder: what the auxiliary masks alone were worth does not count against it.
        let counts = stage == Stage::Full;
        if let Some(dice) = validated.figures.output.mean.filter(|_| counts)
            && self.best.is_none_or(|best| dice > best.dice)
        {
            self.best = Some(Best { step, dice });
        }
        self.watch.validation(&validated);
        Ok(())
    }

    /// Makes a checkpoint count whose shards, here by part with their sha256, are written.
    ///
    /// # Errors
    /// A manifest that cannot be written.
    pub fn complete(&mut self, step: u64, shards: BTreeMap<String, String>) -> Result<(), TrainingError> {
        self.watch.write();
        self.checkpoints.complete(&Manifest {
            step,
            seconds: self.watch.seconds(),
            best: self.best,
            shards,
        })
    }

    /// Writes the bundle of the best validation, or of `trainer` where there is none better.
    ///
    /// # Errors
    /// Those of [`export_bundle`].
    pub fn export(&self, trainer: &mut Trainer) -> Result<(PathBuf, Option<Best>), TrainingError> {
        if let Some(best) = self.best.filter(|best| best.step != trainer.steps_done()) {
            match self.checkpoints.read(best.step) {
                Ok((manifest, shards)) => trainer.restore(manifest.step, &shards)?,
                Err(error) => {
                    tracing::warn!("the best checkpoint cannot be read: {error}; the last is exported");
                }
            }
        }
        let bundle = self.config.output.join("bundle");
        export_bundle(trainer, &bundle)?;
        Ok((bundle, self.best))
    }
}

/// The cases of the dataset in their roles; all must have labels.
///
/// # Errors
/// [`TrainingError::Volume`] and [`TrainingError::Split`].
pub fn divide(config: &TrainingConfig) -> Result<Divided, TrainingError> {
    let data = &config.data;
    let labels = data.labels.as_deref().unwrap_or(&data.folder);
    let cases = discover(&data.folder, Some(labels), config.model.modalities.len())?;
    data.split.divide(cases, &data.folder)
}

impl TrainingConfig {
    /// Where its checkpoints are.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.output.join("checkpoints"))
    }

    /// Fails where the output folder holds a run already.
    ///
    /// # Errors
    /// [`TrainingError::Config`].
    pub fn check_is_new(&self) -> Result<(), TrainingError> {
        if self.checkpoints().is_empty() {
            return Ok(());
        }
        let reason = "the output folder holds checkpoints already: resume, or choose another".into();
        Err(TrainingError::Config { path: self.output.clone(), reason })
    }

    /// Writes the configuration to a file that gives the same when it is read.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainingError> {
        let yaml = serde_yaml::to_string(self)
            .map_err(|source| TrainingError::Parse { path: path.into(), source })?;
        write_atomically(path, |file| file.write_all(yaml.as_bytes())).map_err(TrainingError::io(path))
    }
}
