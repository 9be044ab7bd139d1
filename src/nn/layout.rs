//! Memory layout of images.

use tch::Tensor;

/// `[B, C, H, W]` to the same values with the channels of a pixel adjacent in memory: the layout in which the
/// convolutions of CPUs are fastest and in which tokens `[B, H, W, C]` are a free permutation.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
