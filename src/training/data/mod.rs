//! Labelled cases as samples: read from disk, drawn, augmented, and prepared ahead of the trainer.

mod cases;
mod check;
mod labels;
mod prefetch;
mod sampler;

pub use cases::{CaseStore, TrainingCase};
pub use check::{Cases, divide, find_cases};
pub use labels::LabelRules;
pub use prefetch::Prefetch;
pub use sampler::{Sample, Sampler};
