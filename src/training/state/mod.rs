//! The state of a run on disk: checkpoints.

mod checkpoint;

pub use checkpoint::{Best, Checkpoints, Manifest, Shards};
