//! A whole training run in one process: steps, validations, checkpoints, and the bundle at the end.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::TrainingError;
use super::cases::CaseStore;
use super::checkpoint::{Best, Checkpoints};
use super::config::TrainingConfig;
use super::export::export_bundle;
use super::prefetch::Prefetch;
use super::sampler::{Sample, Sampler};
use super::schedule::Stage;
use super::split::Divided;
use super::trainer::Trainer;
use super::validate::Validator;
use super::watch::Watch;
use crate::compute::Compute;
use crate::files::write_atomically;
use crate::volume::discover;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps were made.
    Finished {
        /// The bundle of the best validation.
        bundle: PathBuf,
        /// That validation.
        best: Option<Best>,
    },
    /// It was asked to stop, and can go on from here.
    Stopped {
        /// Steps made.
        step: u64,
    },
}

/// Trains until the end of the schedule, or until `stop` is set: then the step is finished and a checkpoint written.
/// With `resume` the run goes on from the newest whole checkpoint in the output folder, if there is one.
///
/// # Errors
/// Any [`TrainingError`]. After [`TrainingError::NotFinite`] the checkpoints are those of before.
pub fn run(
    config: &TrainingConfig,
    compute: Compute,
    resume: bool,
    stop: &AtomicBool,
) -> Result<Outcome, TrainingError> {
    let checkpoints = Checkpoints::new(config.output.join("checkpoints"));
    if !resume && !checkpoints.is_empty() {
        let reason = "the output folder holds checkpoints already: resume, or choose another".into();
        return Err(TrainingError::Config { path: config.output.clone(), reason });
    }
    let Divided { training, validation } = divide(config)?;
    let (cases, others) = (training.len(), validation.len());
    tracing::info!("{}: {cases} cases to learn from, {others} to validate on", config.model.name);
    let bundle = config.model.without_files();
    let validator = Validator::new(validation, bundle.clone());
    let store = CaseStore::new(training, bundle, config.data.memory_mib << 20);
    let augmentation = config.augmentation.clone();
    let sampler =
        Arc::new(Sampler::new(store, config.patch(), config.data.foreground, augmentation, config.seed));
    let mut run = Run::new(config, compute, checkpoints, validator, resume)?;
    run.train(&sampler, stop)
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

struct Run<'a> {
    config: &'a TrainingConfig,
    trainer: Trainer,
    checkpoints: Checkpoints,
    validator: Validator,
    watch: Watch,
    best: Option<Best>,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a TrainingConfig,
        compute: Compute,
        checkpoints: Checkpoints,
        validator: Validator,
        resume: bool,
    ) -> Result<Self, TrainingError> {
        fs::create_dir_all(&config.output).map_err(TrainingError::io(&config.output))?;
        write_config(config)?;
        let mut trainer = Trainer::new(config, compute)?;
        let (mut seconds, mut best) = (0.0, None);
        if resume {
            match checkpoints.newest()? {
                Some((manifest, shards)) => {
                    trainer.restore(&manifest, &shards)?;
                    (seconds, best) = (manifest.seconds, manifest.best);
                    tracing::info!("goes on after step {}", manifest.step);
                }
                None => tracing::warn!("there is no checkpoint to go on from: starting at the beginning"),
            }
        }
        let behind = (trainer.steps_done(), seconds);
        let watch = Watch::new(&config.output, &config.model.name, &config.schedule, behind)?;
        Ok(Self { config, trainer, checkpoints, validator, watch, best })
    }

    fn train(&mut self, sampler: &Arc<Sampler>, stop: &AtomicBool) -> Result<Outcome, TrainingError> {
        let schedule = &self.config.schedule;
        let windows = schedule.windows_per_step;
        let first = self.trainer.steps_done() * windows as u64;
        let mut prefetch = Prefetch::new(sampler, first, self.config.prefetch)?;
        while self.trainer.steps_done() < schedule.steps() {
            let started = Instant::now();
            let samples: Vec<Sample> =
                (0..windows).map(|_| prefetch.next_sample()).collect::<Result<_, _>>()?;
            let waited = started.elapsed().as_secs_f64();
            let report = self.trainer.step(&samples)?;
            let slices = samples.iter().map(|sample| sample.labels.dim().0).sum();
            self.watch.step(report, slices, started.elapsed().as_secs_f64(), waited);
            self.end_of_step(stop)?;
            if stop.load(Ordering::Relaxed) && self.trainer.steps_done() < schedule.steps() {
                self.save()?;
                return Ok(Outcome::Stopped { step: self.trainer.steps_done() });
            }
        }
        self.finish(stop)
    }

    /// Validation and checkpoint where an epoch ends that has one.
    fn end_of_step(&mut self, stop: &AtomicBool) -> Result<(), TrainingError> {
        let schedule = &self.config.schedule;
        let done = self.trainer.steps_done();
        if !done.is_multiple_of(schedule.iterations_per_epoch) || done == schedule.steps() {
            return Ok(());
        }
        let epochs = done / schedule.iterations_per_epoch;
        if schedule.validate_every_epochs > 0 && epochs.is_multiple_of(schedule.validate_every_epochs) {
            self.validate(schedule.validation_cases, stop)?;
        }
        if epochs.is_multiple_of(schedule.checkpoint_every_epochs)
            && let Err(error) = self.save()
        {
            tracing::error!("{error}; the training goes on, the newest checkpoint is the one before");
        }
        Ok(())
    }

    fn validate(&mut self, limit: Option<usize>, stop: &AtomicBool) -> Result<(), TrainingError> {
        let step = self.trainer.steps_done();
        let stage = self.config.schedule.stage(step.saturating_sub(1));
        let Some(validated) = self.validator.validate(&self.trainer, stage, limit, stop)? else {
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

    fn save(&mut self) -> Result<(), TrainingError> {
        self.watch.write();
        self.trainer.save(&self.checkpoints, self.watch.seconds(), self.best)
    }

    fn finish(&mut self, stop: &AtomicBool) -> Result<Outcome, TrainingError> {
        self.validate(None, stop)?;
        self.save()?;
        self.trainer.check_frozen()?;
        if let Some(best) = self.best.filter(|best| best.step != self.trainer.steps_done()) {
            match self.checkpoints.read(best.step) {
                Ok((manifest, shards)) => self.trainer.restore(&manifest, &shards)?,
                Err(error) => {
                    tracing::warn!("the best checkpoint cannot be read: {error}; the last is exported")
                }
            }
        }
        let bundle = self.config.output.join("bundle");
        export_bundle(&self.trainer, &bundle)?;
        Ok(Outcome::Finished { bundle, best: self.best })
    }
}

/// Leaves the configuration beside its results.
fn write_config(config: &TrainingConfig) -> Result<(), TrainingError> {
    let path = config.output.join("config.yml");
    let yaml = serde_yaml::to_string(config)
        .map_err(|source| TrainingError::Parse { path: path.clone(), source })?;
    write_atomically(&path, |file| file.write_all(yaml.as_bytes())).map_err(TrainingError::io(path))
}
