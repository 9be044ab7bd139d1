//! Memory layout of images.

use tch::Tensor;

/// `[B, C, H, W]` to the same values with the channels of a pixel adjacent in memory: the layout in which the
/// convolutions of CPUs are fastest and in which tokens `[B, H, W, C]` are a free permutation.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// `x` without a graph on the device, in the type and in the memory layout of `other`, which has its shape: a copy only
/// where one of them differs. Operations on two tensors of different layouts are slow.
pub fn as_laid_out(x: &Tensor, other: &Tensor) -> Tensor {
    let x = x.detach().to_device_(other.device(), other.kind(), false, false);
    if x.stride() == other.stride() {
        return x;
    }
    let mut copy = other.detach().empty_like();
    copy.copy_(&x);
    copy
}
