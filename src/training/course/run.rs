//! A whole training run in one process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Course;
use crate::compute::Compute;
use crate::training::config::TrainingConfig;
use crate::training::data::{Prefetch, Sample, Sampler, divide};
use crate::training::error::TrainingError;
use crate::training::state::Best;
use crate::training::trainer::Trainer;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// The bundle of the best validation.
        bundle: PathBuf,
        /// That validation.
        best: Option<Best>,
    },
    /// The run was stopped and can be resumed from here.
    Stopped {
        /// Steps made.
        step: u64,
    },
}

/// Trains until the end of the schedule, or until `stop` is set; the current step is then finished and a checkpoint
/// written. With `resume` the run continues from the newest complete checkpoint in the output folder, if there is
/// one.
///
/// # Errors
/// Any [`TrainingError`]. After [`TrainingError::NotFinite`] the previous checkpoints remain.
pub fn run(
    config: &TrainingConfig,
    compute: Compute,
    resume: bool,
    stop: &AtomicBool,
) -> Result<Outcome, TrainingError> {
    let cases = divide(config)?;
    let (learned, others) = (cases.training.len(), cases.validation.len());
    tracing::info!("{}: {learned} cases to learn from, {others} to validate on", config.model.name);
    let (mut course, last) = Course::begin(config, &cases, resume)?;
    let sampler = Arc::new(Sampler::of_config(config, cases.training));
    let mut trainer = match last {
        None => Trainer::new(config, compute)?,
        Some((manifest, shards)) => {
            let mut trainer = Trainer::new(&config.resumed(), compute)?;
            trainer.restore(manifest.step, &shards)?;
            trainer
        }
    };
    let windows = config.schedule.windows_per_step;
    let first = trainer.steps_done() * windows as u64;
    let mut prefetch = Prefetch::new(&sampler, first, config.prefetch)?;
    loop {
        let due = config.schedule.due(trainer.steps_done());
        if due.end {
            let validated = course.validate(&mut trainer, stop)?;
            save(&mut course, &trainer)?;
            if !validated {
                return Ok(Outcome::Stopped { step: trainer.steps_done() });
            }
            trainer.check_frozen()?;
            let (bundle, best) = course.export(&mut trainer)?;
            return Ok(Outcome::Finished { bundle, best });
        }
        let started = Instant::now();
        let samples: Vec<Sample> = (0..windows).map(|_| prefetch.next_sample()).collect::<Result<_, _>>()?;
        let waited = started.elapsed().as_secs_f64();
        let report = trainer.step(&samples)?;
        course.learned(report, started.elapsed().as_secs_f64(), waited);
        let due = config.schedule.due(trainer.steps_done());
        if due.end {
            continue;
        }
        if due.validation {
            course.validate(&mut trainer, stop)?;
        }
        if stop.load(Ordering::Relaxed) {
            save(&mut course, &trainer)?;
            return Ok(Outcome::Stopped { step: trainer.steps_done() });
        }
        if (due.checkpoint || due.validation)
            && let Err(error) = save(&mut course, &trainer)
        {
            tracing::error!("{error}; the training goes on, the newest checkpoint is the one before");
        }
    }
}

fn save(course: &mut Course, trainer: &Trainer) -> Result<(), TrainingError> {
    let shards = trainer.write_shards(&trainer.config().checkpoints());
    course.complete(trainer.steps_done(), shards)
}
