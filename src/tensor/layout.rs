//! Memory layout of images.

use tch::Tensor;

/// Rearranges `[B, C, H, W]` in memory so that the channels of a pixel are adjacent. Convolutions on CPUs are
/// fastest in this layout, and `[B, H, W, C]` is then a view.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// `x`, detached, with the device, type and memory layout of `other`, which has the same shape. Copies only if
/// one of them differs. Operations on two tensors with different layouts are slow.
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
