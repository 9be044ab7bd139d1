//! Tests of the dataflows and of what people build on them, under the real dora.
//!
//! They need what `cargo xtask setup` installs and the node binaries (`cargo build --release`). Those that run a
//! dataflow run one at a time, as each uses the whole machine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod bundles;
mod cluster;
mod examples;
mod golden;
mod harness;
mod lossless;
#[path = "../support/nifti.rs"]
mod nifti;
mod oracle;
#[path = "../support/skip.rs"]
mod skip;
mod swap;
mod training;
mod validation;
