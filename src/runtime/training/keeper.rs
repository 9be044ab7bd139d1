//! The writer's course thread in training: curves, validations, manifests and the bundle.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use tokio::sync::mpsc::UnboundedSender;

use crate::compute::Compute;
use crate::training::{Best, Course, StepReport, Trainer, TrainingConfig, TrainingError};

/// A message for the course thread.
pub(super) enum Task {
    Learned {
        report: StepReport,
        seconds: f64,
        waited: f64,
    },
    /// The shards of a step are on disk, with their sha256 by part.
    Written {
        step: u64,
        shards: BTreeMap<String, String>,
    },
}

/// A message from the course thread: the result of [`Task::Written`].
pub(super) enum Reply {
    Complete,
    /// The manifest cannot be written; training can continue.
    NotComplete(TrainingError),
    Finished {
        bundle: PathBuf,
        best: Option<Best>,
    },
    Failed(TrainingError),
}

/// The course thread: keeps curves, validations, manifests and the bundle.
pub(super) struct Keeper {
    config: TrainingConfig,
    compute: Compute,
    course: Course,
    /// The network for validations and the bundle, made when first needed.
    trainer: Option<Trainer>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    pub fn new(config: TrainingConfig, compute: Compute, course: Course, stop: Arc<AtomicBool>) -> Self {
        Self { config, compute, course, trainer: None, stop }
    }

    /// Performs tasks until the writer ends.
    pub fn serve(mut self, tasks: &mpsc::Receiver<Task>, replies: &UnboundedSender<Reply>) {
        for task in tasks {
            if let Some(reply) = self.perform(task)
                && replies.send(reply).is_err()
            {
                return;
            }
        }
    }

    fn perform(&mut self, task: Task) -> Option<Reply> {
        match task {
            Task::Learned { report, seconds, waited } => {
                self.course.learned(report, seconds, waited);
                None
            }
            Task::Written { step, shards } => Some(self.written(step, shards).unwrap_or_else(Reply::Failed)),
        }
    }

    fn written(&mut self, step: u64, shards: BTreeMap<String, String>) -> Result<Reply, TrainingError> {
        let due = self.config.schedule.due(step);
        let mut validated = true;
        if due.validation {
            let restored = self.config.checkpoints().read_shards(step, &shards)?;
            let mut trainer = match self.trainer.take() {
                Some(trainer) => trainer,
                None => Trainer::new(&self.config.resumed(), self.compute)?,
            };
            trainer.restore(step, &restored)?;
            validated = self.course.validate(&mut trainer, &self.stop)?;
            self.trainer = Some(trainer);
        }
        if let Err(error) = self.course.complete(step, Ok(shards)) {
            return if due.end { Err(error) } else { Ok(Reply::NotComplete(error)) };
        }
        match self.trainer.as_mut().filter(|_| due.end && validated) {
            Some(trainer) => {
                let (bundle, best) = self.course.export(trainer)?;
                Ok(Reply::Finished { bundle, best })
            }
            None => Ok(Reply::Complete),
        }
    }
}
