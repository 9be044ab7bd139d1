//! The network: SAM's parts, what the paper adds to them, the generator of auxiliary masks, and on top the parts that the
//! nodes run ([`segmenter`]).

pub mod adapter;
pub mod generator;
pub mod layers;
pub mod sam;
pub mod segmenter;
mod taps;

pub use taps::TapShape;
