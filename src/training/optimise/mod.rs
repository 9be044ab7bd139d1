//! Losses, optimisers and the schedule.

mod loss;
mod optimiser;
mod schedule;

pub use loss::{IGNORED, LossConfig};
pub use optimiser::{Optimiser, OptimiserConfig, Rule};
pub use schedule::{Due, LearningRate, Schedule, Stage};
