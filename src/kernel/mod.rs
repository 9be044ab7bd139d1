//! Attention of the image encoders on CPUs with AVX512-BF16: the one place where libtorch's own
//! operations leave too much of the machine unused (`docs/decisions/0010-attention-kernel.md`).

mod attention;
#[cfg(target_arch = "x86_64")]
mod block;
#[cfg(target_arch = "x86_64")]
mod gradient;
#[cfg(target_arch = "x86_64")]
mod parallel;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tile;

pub use attention::{AttentionShape, PositionBias, QkvOrder, attention, is_supported};
