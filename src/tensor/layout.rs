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

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_copy_is_made_only_where_type_or_layout_differ() {
        let x = Tensor::rand([2, 3, 4, 5], (Kind::Float, Device::Cpu));
        assert_eq!(as_laid_out(&x, &x.zeros_like()).data_ptr(), x.data_ptr());
        let other = channels_last(&x).to_kind(Kind::Double);
        let laid_out = as_laid_out(&x, &other);
        assert_eq!((laid_out.kind(), laid_out.stride()), (Kind::Double, other.stride()));
        assert_eq!(laid_out, x.to_kind(Kind::Double));
    }
}
