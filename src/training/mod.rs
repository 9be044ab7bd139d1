//! Training (paper section 4.2): the parts that a dataflow's nodes and one process train with alike.
//!
//! ```text
//! discover → Split → CaseStore → Sampler (augment) → Prefetch ─ windows ─► EncoderPart ─ taps ─► GeneratorPart
//!                                                                  │  ▲        │ embedding          │ masks → prompts
//!                                                                  │  └ gradients ◄─────── DecoderPart ◄┘
//!                                                                  └ labels, losses at generator and decoder
//! ```
//!
//! The graph is cut between the parts: each receives values, and gives gradients back. [`Trainer`] holds all parts in
//! one process; [`run()`] makes a whole run of it, and [`Course`] is what goes with the steps in both.

mod ablation;
pub mod augment;
mod cases;
mod checkpoint;
mod config;
mod course;
mod decoder_part;
mod encoder_part;
mod error;
mod events;
mod export;
mod generator_part;
mod history;
mod loss;
mod optimiser;
mod page;
mod part;
mod prefetch;
mod run;
mod sampler;
mod schedule;
mod split;
mod tensors;
mod trainer;
mod validate;
mod watch;

pub use ablation::{AblationRow, UnknownVariant, Variant, ablate, table};
pub use cases::{CaseStore, TrainingCase};
pub use checkpoint::{Best, Checkpoints, Manifest};
pub use config::{DataConfig, ModelConfig, PrefetchConfig, TrainingConfig};
pub use course::{Checkpoint, Course, divide};
pub use decoder_part::{Decoded, DecoderPart};
pub use encoder_part::{EncodedGradients, EncoderPart, received};
pub use error::TrainingError;
pub use events::EventWriter;
pub use export::export_bundle;
pub use generator_part::{Generated, GeneratorPart};
pub use history::{History, Interval, Point};
pub use loss::LossConfig;
pub use optimiser::{Optimiser, OptimiserConfig, Rule};
pub use page::write_page;
pub use part::{Part, PartName};
pub use prefetch::Prefetch;
pub use run::{Outcome, run};
pub use sampler::{Sample, Sampler};
pub use schedule::{Due, LearningRate, Schedule, Stage};
pub use split::{Divided, Split};
pub use tensors::Tensors;
pub use trainer::{Segmented, StepReport, Trainer, labels_of, slices_of};
pub use validate::{DiceFigures, Validated, Validation, Validator, by_class};
pub use watch::Watch;
