//! How long a step takes on this machine.

use std::sync::Arc;
use std::time::Instant;

use crate::compute::Compute;
use crate::training::config::TrainingConfig;
use crate::training::data::{Sample, Sampler, divide};
use crate::training::error::TrainingError;
use crate::training::trainer::Trainer;

/// Steps before the measurement: the first ones prepare cases and kernels.
const WARM_UP: usize = 2;
/// Steps that are measured.
const MEASURED: usize = 4;

/// Median seconds of a step in which all parts learn, of a few steps in this process.
///
/// # Errors
/// Those of a training.
pub fn seconds_per_step(config: &TrainingConfig, compute: Compute) -> Result<f64, TrainingError> {
    let mut config = config.clone();
    config.schedule.generator_only_epochs = 0;
    let sampler = Arc::new(Sampler::of_config(&config, divide(&config)?.training));
    let mut trainer = Trainer::new(&config, compute)?;
    let windows = config.schedule.windows_per_step as u64;
    let mut seconds = Vec::new();
    for step in 0..(WARM_UP + MEASURED) as u64 {
        let samples: Vec<Sample> =
            (0..windows).map(|window| sampler.sample(step * windows + window)).collect::<Result<_, _>>()?;
        let started = Instant::now();
        trainer.step(&samples)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let mut measured = seconds.split_off(WARM_UP);
    measured.sort_by(f64::total_cmp);
    Ok((measured[MEASURED / 2 - 1] + measured[MEASURED / 2]) / 2.0)
}
