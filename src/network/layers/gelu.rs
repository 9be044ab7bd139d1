//! Exact GELU in the layout in which it is fast.

use tch::Tensor;

use crate::kernel;

/// Exact GELU (`approximate = "none"`) of a tensor that nobody else needs: its memory is reused where no gradient has to
/// be kept. Images with the channels of a pixel adjacent are taken as tokens, for which there is our kernel, or libtorch uses
/// oneDNN: three times as fast on a CPU.
pub fn gelu(mut x: Tensor) -> Tensor {
    if x.dim() == 4 && !x.is_contiguous() {
        let tokens = x.permute([0, 2, 3, 1]);
        if tokens.is_contiguous() {
            return gelu(tokens).permute([0, 3, 1, 2]);
        }
    }
    if kernel::has_gelu(&x) {
        return kernel::gelu(x);
    }
    if x.requires_grad() { x.gelu("none") } else { x.gelu_("none") }
}
