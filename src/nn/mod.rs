//! Layers that several networks share.

mod derived;
mod gelu;
mod layer_norm;
mod layout;
mod linear;
mod operation;

pub use derived::Derived;
pub use gelu::gelu;
pub use layer_norm::{LayerNorm, LayerNorm2d};
pub use layout::{as_laid_out, channels_last};
pub use linear::Linear;
pub use operation::with_backward;
