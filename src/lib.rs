//! Prompt-free, class-aware SAM segmentation of 3D medical images: the library behind the dora nodes in `nodes/`.
//! `ARCHITECTURE.md` maps the modules; the method is Self-Prompt-SAM.

pub mod array;
pub mod bundle;
pub mod compute;
pub mod dicom;
pub mod files;
mod kernel;
pub mod message;
pub mod metrics;
pub mod network;
pub mod prompt;
pub mod report;
pub mod runtime;
pub mod scanner;
pub mod survey;
pub mod tensor;
pub mod training;
pub mod versions;
pub mod view;
pub mod volume;
pub mod weights;

#[cfg(test)]
#[path = "../tests/support/skip.rs"]
mod skip;
