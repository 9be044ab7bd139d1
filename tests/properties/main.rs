//! Properties that hold for any input.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adapters;
mod compare;
mod components;
mod datasets;
mod decoder;
mod delivery;
#[path = "../support/devices.rs"]
mod devices;
mod dicom;
mod dicom_seg;
mod documents;
mod evaluate;
mod hostile;
mod messages;
mod mr_series;
#[path = "../support/nifti.rs"]
mod nifti;
#[path = "../support/parsers.rs"]
mod parsers;
mod plan;
mod prompts;
mod report;
mod sam_prompts;
#[path = "../support/samples.rs"]
mod samples;
mod scanner;
mod segmenter;
#[path = "../support/skip.rs"]
mod skip;
mod start;
mod training;
mod two_passes;
mod view;
mod volume_datasets;
mod volume_files;
mod volume_geometry;
mod volume_grid;
mod volume_headers;
mod volume_names;
mod volume_slices;
mod volume_windows;
mod volumes;
#[path = "../support/zip.rs"]
mod zip;
