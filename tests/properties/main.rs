//! What must hold for any input.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adapters;
mod prompts;
mod report;
mod sam_prompts;
mod segmenter;
mod training;
mod volume_datasets;
mod volume_files;
mod volume_geometry;
mod volume_windows;
mod volumes;
