//! The curves of a run, stored next to its checkpoints.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::files::write_atomically;
use crate::training::error::TrainingError;
use crate::training::optimise::Stage;
use crate::training::trainer::{StepReport, Validation};

/// Means over some steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps made.
    pub step: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Stage of the last step.
    pub stage: Stage,
    /// Loss of the auxiliary masks, unweighted.
    pub auxiliary_loss: f64,
    /// Loss of the final output, unweighted; `None` while the decoder is not trained.
    pub final_loss: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Gradient norms of encoder, generator and decoder.
    pub gradient_norms: [f64; 3],
    /// Slices processed per second.
    pub slices_per_second: f64,
    /// Fraction of the time that the network waited for windows, 0 to 1.
    pub waiting: f64,
}

/// All measurements of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Points of the curves.
    pub points: Vec<Point>,
    /// Validations.
    pub validations: Vec<Validation>,
}

impl History {
    /// The history of a run as it was after `step` steps; empty if there is no file.
    ///
    /// # Errors
    /// [`TrainingError::Io`] and [`TrainingError::Shard`] for a file that cannot be read.
    pub fn read(path: &Path, step: u64) -> Result<Self, TrainingError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(TrainingError::io(path)(error)),
        };
        let mut history: Self = serde_json::from_slice(&bytes)
            .map_err(|error| TrainingError::Shard { path: path.into(), reason: error.to_string() })?;
        history.points.retain(|point| point.step <= step);
        history.validations.retain(|validation| validation.step <= step);
        Ok(history)
    }

    /// Writes the history atomically.
    ///
    /// # Errors
    /// [`TrainingError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), TrainingError> {
        write_atomically(path, |file| Ok(serde_json::to_writer(file, self)?)).map_err(TrainingError::io(path))
    }
}

/// The steps since the last point.
#[derive(Debug, Clone, Default)]
pub struct Interval {
    reports: Vec<StepReport>,
    slices: usize,
    seconds: f64,
    waited: f64,
}

impl Interval {
    /// Adds a step with `slices` slices that took `seconds`, of which it `waited` for windows.
    pub fn add(&mut self, report: StepReport, slices: usize, seconds: f64, waited: f64) {
        self.reports.push(report);
        self.slices += slices;
        self.seconds += seconds;
        self.waited += waited;
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Means of the steps; `seconds` is the time of the whole run so far. `None` if there are no steps.
    pub fn point(&self, seconds: f64) -> Option<Point> {
        let last = self.reports.last()?;
        let mean = |of: &dyn Fn(&StepReport) -> Option<f64>| {
            let values: Vec<f64> = self.reports.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let final_loss = mean(&|report| report.final_loss);
        Some(Point {
            step: last.step + 1,
            seconds,
            stage: if last.final_loss.is_some() { Stage::Full } else { Stage::GeneratorOnly },
            auxiliary_loss: mean(&|report| Some(report.auxiliary_loss)).unwrap_or_default(),
            final_loss,
            learning_rate: last.learning_rate,
            gradient_norms: [0, 1, 2]
                .map(|part| mean(&|report| Some(report.gradient_norms[part])).unwrap_or_default()),
            slices_per_second: self.slices as f64 / self.seconds.max(1e-6),
            waiting: self.waited / self.seconds.max(1e-6),
        })
    }
}
