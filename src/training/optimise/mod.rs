//! What is minimised and how: losses, update rules, and what is due at which step.

mod loss;
mod optimiser;
mod schedule;

pub use loss::LossConfig;
pub use optimiser::{Optimiser, OptimiserConfig, Rule};
pub use schedule::{Due, LearningRate, Schedule, Stage};
