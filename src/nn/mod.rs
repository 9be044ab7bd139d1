//! Layers that several networks share.

mod layer_norm;
mod layout;

pub use layer_norm::LayerNorm2d;
pub use layout::channels_last;
