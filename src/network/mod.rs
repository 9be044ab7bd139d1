//! The network: SAM's parts, the modules that the paper adds, the generator of auxiliary masks, and the parts that
//! the nodes run ([`segmenter`]).

pub mod adapter;
pub mod generator;
pub mod layers;
pub mod sam;
pub mod segmenter;
mod taps;

pub use taps::TapShape;
