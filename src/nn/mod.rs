//! Layers that several networks share.

mod layer_norm;

pub use layer_norm::LayerNorm2d;
