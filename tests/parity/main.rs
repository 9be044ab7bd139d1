//! Comparisons with reference packages; each runs a script of `tests/python`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrays;
mod checkpoint;
mod components;
#[path = "../support/devices.rs"]
mod devices;
mod distance;
mod generator;
mod gpu;
mod lite_medsam;
mod metrics;
mod python;
mod reference;
mod resize;
mod sam;
mod sam_input;
#[path = "../support/skip.rs"]
mod skip;
mod training;
