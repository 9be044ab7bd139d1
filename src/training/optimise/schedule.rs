//! Length and stages of a training, and the learning rate over time (paper section 4.2, Equation 2).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Most windows per step; a node can join this many at a time with room to spare.
const MOST_WINDOWS: usize = 32;

/// Length and intervals of a run. A step is one update of all parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Number of epochs. 1000 in the paper.
    pub epochs: u64,
    /// Steps per epoch. 250 in the paper.
    pub iterations_per_epoch: u64,
    /// Epochs at the start in which only the generator's loss is used and the mask decoder is not trained, because
    /// prompts are useless until the generator is trained. 200 in the paper.
    pub generator_only_epochs: u64,
    /// Windows per step, over which gradients are averaged; at most 32. Default 2 (nnU-Net's smallest batch).
    #[serde(default = "default_windows")]
    pub windows_per_step: usize,
    /// Epochs between validations; 0 = only at the end. Default 10.
    #[serde(default = "default_validate")]
    pub validate_every_epochs: u64,
    /// Cases of a validation during the run, spread over all; absent = all. The last validation uses all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_cases: Option<usize>,
    /// Epochs between checkpoints. Default 1.
    #[serde(default = "default_checkpoint")]
    pub checkpoint_every_epochs: u64,
    /// Steps between points of the curves. Default 10.
    #[serde(default = "default_log")]
    pub log_every_steps: u64,
}

fn default_windows() -> usize {
    2
}

fn default_validate() -> u64 {
    10
}

fn default_checkpoint() -> u64 {
    1
}

fn default_log() -> u64 {
    10
}

/// The stage of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Encoder and generator are trained, with the generator's loss.
    GeneratorOnly,
    /// All parts are trained, with both losses.
    Full,
}

impl Schedule {
    /// Number of steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.epochs * self.iterations_per_epoch
    }

    /// Epoch of a step, both from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.iterations_per_epoch
    }

    /// What is due after `done` steps.
    pub fn due(&self, done: u64) -> Due {
        let ends = done >= self.steps();
        if ends || !done.is_multiple_of(self.iterations_per_epoch) {
            return Due { validation: ends, checkpoint: ends, end: ends };
        }
        let epochs = done / self.iterations_per_epoch;
        let every = |period: u64| period > 0 && epochs.is_multiple_of(period);
        Due {
            validation: every(self.validate_every_epochs),
            checkpoint: every(self.checkpoint_every_epochs),
            end: false,
        }
    }

    /// Stage of a step.
    pub fn stage(&self, step: u64) -> Stage {
        if self.epoch(step) < self.generator_only_epochs { Stage::GeneratorOnly } else { Stage::Full }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let counts = [
            ("epochs", self.epochs),
            ("iterations_per_epoch", self.iterations_per_epoch),
            ("windows_per_step", self.windows_per_step as u64),
            ("checkpoint_every_epochs", self.checkpoint_every_epochs),
            ("log_every_steps", self.log_every_steps),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(format!("schedule.{name} must be at least 1")),
            None if self.windows_per_step > MOST_WINDOWS => {
                Err(format!("schedule.windows_per_step must be at most {MOST_WINDOWS}"))
            }
            None if self.validation_cases == Some(0) => {
                Err("schedule.validation_cases must be at least 1".into())
            }
            None => Ok(()),
        }
    }
}

/// The events after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// A validation.
    pub validation: bool,
    /// A checkpoint.
    pub checkpoint: bool,
    /// The end of the run.
    pub end: bool,
}

/// Learning rate over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LearningRate {
    /// `initial · (1 - epoch / epochs)^exponent`, constant within an epoch (paper Equation 2, as in nnU-Net).
    Poly {
        /// 0.01 in the paper.
        initial: f64,
        /// 0.9 in the paper.
        exponent: f64,
    },
    /// Linear from 0 to `peak` over the warm-up, then half a cosine down to `last`.
    WarmUpCosine {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warm_up_steps: u64,
        /// Rate after the last step.
        last: f64,
    },
}

impl LearningRate {
    /// The learning rate of a step, counted from 0.
    pub fn at(&self, step: u64, schedule: &Schedule) -> f64 {
        match *self {
            Self::Poly { initial, exponent } => {
                let done = schedule.epoch(step) as f64 / schedule.epochs as f64;
                initial * (1.0 - done).max(0.0).powf(exponent)
            }
            Self::WarmUpCosine { peak, warm_up_steps, .. } if step < warm_up_steps => {
                peak * (step + 1) as f64 / warm_up_steps as f64
            }
            Self::WarmUpCosine { peak, warm_up_steps, last } => {
                let steps = schedule.steps().saturating_sub(warm_up_steps).max(1);
                let done = ((step - warm_up_steps) as f64 / steps as f64).min(1.0);
                last + (peak - last) * 0.5 * (1.0 + (PI * done).cos())
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let usable = |rate: f64| rate >= 0.0 && rate.is_finite();
        let valid = match *self {
            Self::Poly { initial, exponent } => usable(initial) && usable(exponent),
            Self::WarmUpCosine { peak, last, .. } => usable(peak) && usable(last),
        };
        if valid { Ok(()) } else { Err("learning_rate: values must be finite and not negative".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule {
            epochs: 1000,
            iterations_per_epoch: 250,
            generator_only_epochs: 200,
            windows_per_step: 2,
            validate_every_epochs: 10,
            validation_cases: None,
            checkpoint_every_epochs: 1,
            log_every_steps: 10,
        }
    }

    #[test]
    fn poly_follows_the_papers_equation() {
        let rate = LearningRate::Poly { initial: 0.01, exponent: 0.9 };
        let at = |step| rate.at(step, &schedule());
        assert_eq!(at(0), 0.01);
        assert_eq!(at(249), 0.01);
        assert!((at(500 * 250) - 0.01 * 0.5f64.powf(0.9)).abs() < 1e-15);
        assert!(at(999 * 250) > 0.0);
    }

    #[test]
    fn warm_up_rises_and_the_cosine_falls_to_the_last_rate() {
        let rate = LearningRate::WarmUpCosine { peak: 1e-3, warm_up_steps: 100, last: 1e-5 };
        let at = |step| rate.at(step, &schedule());
        assert_eq!((at(0), at(99), at(100)), (1e-5, 1e-3, 1e-3));
        let middle = 100 + (schedule().steps() - 100) / 2;
        assert!((at(middle) - (1e-3 + 1e-5) / 2.0).abs() < 1e-8);
        assert!((at(schedule().steps()) - 1e-5).abs() < 1e-12);
    }

    #[test]
    fn checkpoints_and_validations_follow_epochs_and_the_end_has_both() {
        let schedule = Schedule { epochs: 21, checkpoint_every_epochs: 5, ..schedule() };
        let due = |done| {
            let Due { validation, checkpoint, end } = schedule.due(done);
            (validation, checkpoint, end)
        };
        assert_eq!(due(250), (false, false, false));
        assert_eq!(due(5 * 250), (false, true, false));
        assert_eq!(due(5 * 250 + 1), (false, false, false));
        assert_eq!(due(10 * 250), (true, true, false));
        assert_eq!(due(21 * 250), (true, true, true));
    }

    #[test]
    fn stages_change_after_the_generators_epochs() {
        let schedule = schedule();
        assert_eq!(schedule.stage(200 * 250 - 1), Stage::GeneratorOnly);
        assert_eq!(schedule.stage(200 * 250), Stage::Full);
    }
}
