//! The values of a tensor as a slice. `unsafe` code lends libtorch's memory.

use std::ptr::NonNull;

use tch::kind::Element;
use tch::{Device, Tensor};

/// Lends the values of any tensor to `use_them` as `T` in C order. Copies only if the tensor is not on the CPU,
/// contiguous and of type `T`.
pub fn view_values<T: Element, R>(tensor: &Tensor, use_them: impl FnOnce(&[T]) -> R) -> R {
    let tensor = tensor.detach();
    let tensor = match (tensor.kind(), tensor.device()) == (T::KIND, Device::Cpu) && tensor.is_contiguous() {
        true => tensor,
        false => {
            let mut values = Tensor::empty(tensor.size(), (T::KIND, Device::Cpu));
            values.copy_(&tensor);
            values
        }
    };
    match NonNull::new(tensor.data_ptr().cast::<T>()) {
        None => use_them(&[]),
        // SAFETY: the tensor is contiguous, on the CPU and of the type of `T`, outlives the slice, and is only read.
        Some(start) => use_them(unsafe { std::slice::from_raw_parts(start.as_ptr(), tensor.numel()) }),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn values_in_order_are_lent_and_others_copied() {
        let whole = Tensor::rand([2, 3, 4], (Kind::Float, Device::Cpu));
        let slice = whole.get(1);
        let start = view_values(&slice, |values: &[f32]| values.as_ptr());
        assert_eq!(start.cast_mut().cast(), slice.data_ptr());
        let turned = slice.transpose(0, 1);
        let values = view_values(&turned, |values: &[f32]| values.to_vec());
        assert_eq!(Tensor::from_slice(&values).view([4, 3]), turned);
    }
}
