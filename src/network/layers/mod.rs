//! Layers used by several networks.

mod derived;
mod gelu;
mod layer_norm;
mod linear;
mod resize;

pub use derived::Derived;
pub use gelu::gelu;
pub use layer_norm::{LayerNorm, LayerNorm2d};
pub use linear::Linear;
pub use resize::resize_antialiased;
