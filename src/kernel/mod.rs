//! Operations for CPUs with AVX512-BF16 for which libtorch's own are slow: attention of the image encoders
//! (`docs/decisions/0010-attention-kernel.md`), GELU and layer normalisation (`0012-around-the-products.md`).

mod attention;
#[cfg(target_arch = "x86_64")]
mod bias;
#[cfg(target_arch = "x86_64")]
mod block;
mod gelu;
#[cfg(target_arch = "x86_64")]
mod gradient;
mod norm;
#[cfg(target_arch = "x86_64")]
mod parallel;
mod shape;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod values;

use tch::{Device, Kind, Tensor};

pub use attention::{attention, is_supported};
pub use gelu::{gelu, has_gelu};
pub use norm::{has_layer_norm, layer_norm};
pub use shape::{AttentionShape, Cut, PositionBias, QkvOrder};

/// Why tests of the kernels skip.
#[cfg(test)]
pub(crate) const NO_AVX512_BF16: &str = "needs a processor with AVX512-BF16";

/// Whether this processor has AVX512-BF16 and the tensor is bf16 on the CPU.
pub(crate) fn is_bf16_here(x: &Tensor) -> bool {
    #[cfg(target_arch = "x86_64")]
    let machine = std::is_x86_feature_detected!("avx512bf16")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    let machine = false;
    machine && x.device() == Device::Cpu && x.kind() == Kind::BFloat16
}
