//! Labelled cases as samples: read from disk, drawn, augmented, and prepared ahead of the trainer.

mod cases;
mod prefetch;
mod sampler;

pub use cases::{CaseStore, TrainingCase};
pub use prefetch::Prefetch;
pub use sampler::{Sample, Sampler};
