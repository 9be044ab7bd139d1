//! Everything around the steps of a run, in one process as in the dataflow: validations, checkpoints, curves, and
//! the bundle at the end.

mod ablation;
mod resume;
mod run;

pub use ablation::{AblationRow, UnknownVariant, Variant, ablate, table};
pub use run::{Outcome, run};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::config::{Divided, TrainingConfig};
use super::error::TrainingError;
use super::optimise::Stage;
use super::record::Watch;
use super::state::{Best, Checkpoints, Manifest, Shards};
use super::trainer::{StepReport, Trainer, Validation, Validator, export_bundle};
use crate::bundle::LargestComponent;
use crate::files::write_atomically;

/// A run and its state.
pub struct Course {
    config: TrainingConfig,
    checkpoints: Checkpoints,
    validator: Validator,
    watch: Watch,
    best: Option<Best>,
    /// The best validation that has a checkpoint.
    kept: Option<Best>,
}

/// A checkpoint that was read: its manifest and the shards of its parts.
pub type Checkpoint = (Manifest, Shards);

impl Course {
    /// Begins a run on its cases, or goes on with the one in the output folder: then its newest whole checkpoint is
    /// returned.
    ///
    /// # Errors
    /// An output folder that holds checkpoints already, unless `resume`; with it, checkpoints of a run that was begun
    /// otherwise ([`TrainingConfig::check_resumed`]); files that cannot be read or written.
    pub fn begin(
        config: &TrainingConfig,
        cases: &Divided,
        resume: bool,
    ) -> Result<(Self, Option<Checkpoint>), TrainingError> {
        let checkpoints = config.checkpoints();
        if !resume {
            config.check_is_new()?;
        }
        config.check_resumed(Some(cases))?;
        fs::create_dir_all(&config.output).map_err(TrainingError::io(&config.output))?;
        config.write(&config.output.join("config.yml"))?;
        config.write_record(cases)?;
        let last = if resume { checkpoints.newest()? } else { None };
        match &last {
            Some((manifest, _)) => tracing::info!("goes on after step {}", manifest.step),
            None if resume => {
                tracing::warn!("there is no checkpoint to resume from: starting from the beginning");
            }
            None => {}
        }
        let behind = last.as_ref().map_or((0, 0.0), |(manifest, _)| (manifest.step, manifest.seconds));
        let best = last.as_ref().and_then(|(manifest, _)| manifest.best);
        let course = Self {
            watch: Watch::new(&config.output, &config.model.name, &config.schedule, behind)?,
            validator: Validator::of_config(config, cases.validation.clone()),
            best,
            kept: best,
            config: config.clone(),
            checkpoints,
        };
        Ok((course, last))
    }

    /// Records a step that took `seconds`, of which it `waited` for windows.
    pub fn learned(&mut self, report: StepReport, seconds: f64, waited: f64) {
        let slices = self.config.schedule.windows_per_step * self.config.model.patch.depth;
        self.watch.step(report, slices, seconds, waited);
    }

    /// Number of cases in the validations during the run, if not all.
    fn limit(&self) -> Option<usize> {
        self.config.schedule.validation_cases.filter(|&limit| limit < self.validator.len())
    }

    /// Validates `trainer`, with averages if configured; the last validation of a run uses all cases. Returns false and records nothing if `stop`
    /// is set meanwhile.
    ///
    /// # Errors
    /// A case that cannot be read.
    pub fn validate(&mut self, trainer: &mut Trainer, stop: &AtomicBool) -> Result<bool, TrainingError> {
        let (schedule, step) = (&self.config.schedule, trainer.steps_done());
        let limit = self.limit().filter(|_| !schedule.due(step).end);
        let stage = schedule.stage(step.saturating_sub(1));
        let validated =
            trainer.with_averages(|trainer| self.validator.validate(trainer, stage, limit, stop))?;
        let Some(validated) = validated else {
            return Ok(false);
        };
        // A bundle needs its decoder, so the Dice of the auxiliary masks alone does not count. Validations on
        // different cases cannot be compared.
        let counts = stage == Stage::Full && limit == self.limit();
        if let Some(dice) = validated.figures.output.mean.filter(|_| counts)
            && self.best.is_none_or(|best| dice > best.dice)
        {
            self.best = Some(Best { step, dice });
        }
        self.watch.validation(&validated);
        Ok(true)
    }

    /// Completes a checkpoint whose shards are written; their sha256 are given by part.
    ///
    /// # Errors
    /// Why the shards or the manifest cannot be written; the best checkpoint is then the previous one.
    pub fn complete(
        &mut self,
        step: u64,
        shards: Result<BTreeMap<String, String>, TrainingError>,
    ) -> Result<(), TrainingError> {
        self.watch.write();
        let (seconds, best) = (self.watch.seconds(), self.best);
        let written =
            shards.and_then(|shards| self.checkpoints.complete(&Manifest { step, seconds, best, shards }));
        match &written {
            Ok(()) => self.kept = best,
            Err(_) => self.best = self.kept,
        }
        written
    }

    /// Writes the bundle of the best validation at the end, when `trainer` is the last checkpoint and has been
    /// validated on all cases. If the validations during the run used only some cases, the best of them and the last
    /// checkpoint are compared on all cases. Returns the bundle's folder and its validation.
    ///
    /// # Errors
    /// Those of [`export_bundle`] and of a validation.
    pub fn export(&mut self, trainer: &mut Trainer) -> Result<(PathBuf, Option<Best>), TrainingError> {
        let last_step = trainer.steps_done();
        let last = self.watch.history.validations.last().cloned();
        let mut exported = last.clone();
        if let Some(best) = self.best.filter(|best| best.step != last_step) {
            match self.checkpoints.read(best.step) {
                Ok((_, shards)) => {
                    trainer.restore(best.step, &shards)?;
                    exported = self.on_all(trainer)?;
                }
                Err(error) => {
                    tracing::warn!("the best checkpoint cannot be read: {error}; the last one is exported");
                }
            }
        }
        let dice = |validation: &Option<Validation>| validation.as_ref().and_then(|it| it.output.mean);
        if trainer.steps_done() != last_step && dice(&last) > dice(&exported) {
            trainer.restore(last_step, &self.checkpoints.read(last_step)?.1)?;
            exported = last;
        }
        let components = match &exported {
            Some(validation) if self.config.model.largest_component.is_by_validation() => {
                let classes = validation.largest_component.clone();
                tracing::info!("classes of which only the largest component is kept: {classes:?}");
                LargestComponent::OfClasses(classes)
            }
            _ => self.config.model.largest_component.given(),
        };
        let bundle = self.config.output.join("bundle");
        trainer.with_averages(|trainer| export_bundle(trainer, &bundle, components))?;
        let best = dice(&exported).map(|dice| Best { step: trainer.steps_done(), dice });
        Ok((bundle, best))
    }

    /// The validation of `trainer` on all cases: that of the run, if it used all, or one that is made now.
    fn on_all(&self, trainer: &mut Trainer) -> Result<Option<Validation>, TrainingError> {
        let step = trainer.steps_done();
        let mut known = self.watch.history.validations.iter();
        if let Some(known) = known.find(|validation| validation.step == step && validation.complete) {
            return Ok(Some(known.clone()));
        }
        let stop = AtomicBool::new(false);
        let validated =
            trainer.with_averages(|trainer| self.validator.validate(trainer, Stage::Full, None, &stop))?;
        let figures = validated.map(|validated| validated.figures);
        let dice = figures.as_ref().and_then(|figures| figures.output.mean).unwrap_or(0.0);
        tracing::info!("the checkpoint of step {step} has Dice {dice:.4} on all cases");
        Ok(figures)
    }
}

impl TrainingConfig {
    /// The folder of its checkpoints.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.output.join("checkpoints"))
    }

    /// Fails if the output folder already has a run.
    ///
    /// # Errors
    /// [`TrainingError::Config`].
    pub fn check_is_new(&self) -> Result<(), TrainingError> {
        if self.checkpoints().is_empty() {
            return Ok(());
        }
        let reason =
            "the output folder already has checkpoints: resume the run, or choose another folder".into();
        Err(TrainingError::Config { path: self.output.clone(), reason })
    }

    /// Writes the configuration so that reading the file gives the same configuration.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainingError> {
        let yaml = serde_yaml::to_string(self)
            .map_err(|source| TrainingError::Parse { path: path.into(), source })?;
        write_atomically(path, |file| file.write_all(yaml.as_bytes())).map_err(TrainingError::io(path))
    }
}
