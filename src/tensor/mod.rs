//! What libtorch's tensors lack in tch: operations with a gradient of their own, memory layouts.

mod layout;
mod operation;

pub use layout::{as_laid_out, channels_last};
pub use operation::with_backward;
