//! Training (paper section 4.2): the parts that are trained by the nodes of a dataflow or in one process.
//!
//! ```text
//! discover → Split → CaseStore → Sampler (augment) → Prefetch ─ windows ─► EncoderPart ─ taps ─► GeneratorPart
//!                                                                  │  ▲        │ embedding          │ masks → prompts
//!                                                                  │  └ gradients ◄─────── DecoderPart ◄┘
//!                                                                  └ labels, losses at generator and decoder
//! ```
//!
//! The graph is cut between the parts: each receives values and returns gradients. [`Trainer`] holds all parts in
//! one process; [`run()`] runs a whole training with it, and [`Course`] surrounds the steps in both cases.

pub mod augment;
mod config;
mod course;
mod data;
mod error;
mod optimise;
mod parts;
mod plan;
mod prompts;
mod record;
mod sampling;
mod state;
mod trainer;

pub use config::{
    ComponentRule, DataConfig, Divided, ModelConfig, PrefetchConfig, Split, TrainingConfig, patients,
};
pub use course::{AblationRow, Checkpoint, Course, Outcome, UnknownVariant, Variant, ablate, run, table};
pub use data::{CaseStore, Cases, LabelRules, Prefetch, Sample, Sampler, TrainingCase, divide, find_cases};
pub use error::TrainingError;
pub use optimise::{
    Due, IGNORED, LearningRate, LossConfig, Optimiser, OptimiserConfig, Rule, Schedule, Stage,
};
pub use parts::{
    Decoded, DecoderPart, EncodedGradients, EncoderPart, Generated, GeneratorPart, Part, PartName, received,
};
pub use plan::{Plan, Request as PlanRequest, seconds_per_step};
pub use prompts::TrainingPrompts;
pub use record::{EventWriter, History, Interval, Point, Watch, write_page};
pub use sampling::PromptSampling;
pub use state::{Best, Checkpoints, Manifest};
pub use trainer::{
    DiceFigures, Segmented, StepReport, Trainer, Validated, Validation, Validator, by_class, export_bundle,
    labels_of, slices_of,
};
