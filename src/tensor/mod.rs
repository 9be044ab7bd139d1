//! What libtorch's tensors lack in tch: operations with a gradient of their own, memory layouts, packed weights.

mod layout;
mod operation;
mod packed;

pub use layout::{as_laid_out, channels_last};
pub use operation::{mark_changed, passes_gradient, with_backward};
pub use packed::{pack_weight, packed_linear};
