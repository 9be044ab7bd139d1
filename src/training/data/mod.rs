//! Labelled cases as samples: kept on disk, drawn, augmented, and made ahead of the trainer.

mod cases;
mod prefetch;
mod sampler;

pub use cases::{CaseStore, TrainingCase};
pub use prefetch::Prefetch;
pub use sampler::{Sample, Sampler};
