//! The state of a run on disk: named tensors, and checkpoints made of them.

mod checkpoint;
mod tensors;

pub use checkpoint::{Best, Checkpoints, Manifest, Shards};
pub use tensors::{Tensors, sha256_of};
