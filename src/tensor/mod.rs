//! What tch's tensors lack: operations with a custom gradient, memory layouts, packed weights, the values as a
//! slice.

mod layout;
mod operation;
mod packed;
mod values;

pub use layout::{as_laid_out, channels_last};
pub use operation::{mark_changed, passes_gradient, with_backward};
pub use packed::{pack_weight, packed_linear};
pub use values::view_values;
