//! Tests of the dataflows and of nodes that users write, with the real dora.
//!
//! They need the files that `cargo xtask setup` installs and the node binaries (`cargo build --release`). Tests that
//! run small dataflows share the machine; those with a whole network have it alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod bundles;
mod cluster;
mod dicom;
mod examples;
mod golden;
mod harness;
mod installed;
mod labels;
mod live;
mod lossless;
mod machine;
mod mrd;
#[path = "../support/nifti.rs"]
mod nifti;
mod oracle;
mod parts;
mod scanner;
mod segmentations;
mod send;
#[path = "../support/skip.rs"]
mod skip;
mod swap;
mod training;
mod two_passes;
mod validation;
mod view;
