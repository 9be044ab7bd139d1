//! Volumes in and out: finding cases, reading and writing NIfTI-1, orientation, resampling, intensity, windows, and
//! labels put together from windows.
//!
//! ```text
//! discover → CaseFiles ─ CasePlan::new → CasePlan ─┬─ PreparedCase::open → window(k), label_window(k)
//!                                                  └─ LabelAssembler::new → push(k, logits) → write_labels
//! ```
//!
//! Arrays "as stored" are `[x, y, z]`; everything the network sees is `[z, y, x]`, more exactly
//! `[slice, row, column]` (see [`Grid`]).

mod affine;
mod assemble;
mod boxes;
mod case;
mod components;
pub mod dataset;
mod error;
mod grid;
mod header;
mod image;
mod names;
mod normalise;
mod plan;
mod resample;
mod windows;
mod write;

pub use affine::Affine;
pub use assemble::LabelAssembler;
pub use case::PreparedCase;
pub use components::keep_largest_component;
pub use dataset::{CaseFiles, discover};
pub use error::VolumeError;
pub use grid::{BoxMm, Grid};
pub use header::Header;
pub use image::{Image, read_labels};
pub use normalise::normalise;
pub use plan::CasePlan;
pub use resample::Interpolation;
pub use write::write_labels;
