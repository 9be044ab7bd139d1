//! Conversion between tensors and Arrow arrays. `unsafe` code lends memory from one to the other without
//! copying.

use std::ops::Range;
use std::panic::RefUnwindSafe;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type, UInt8Type, UInt16Type};
use tch::{Device, Kind, Tensor};

use super::MessageError;
use super::wire_kind::{WireKind, to_wire};

/// Keeps a tensor alive while an Arrow buffer points into it.
struct TensorMemory(#[expect(dead_code, reason = "held for its Drop")] Tensor);

// SAFETY: the tensor is never accessed again, only dropped, and libtorch's reference count is atomic.
unsafe impl Sync for TensorMemory {}
impl RefUnwindSafe for TensorMemory {}

/// A tensor of any shape as an Arrow array in C order. Copies only if [`to_wire`] does.
pub fn encode_tensor(tensor: &Tensor, kind: WireKind) -> ArrayRef {
    let tensor = to_wire(tensor, kind);
    match kind {
        WireKind::Float32 => primitive::<Float32Type>(tensor),
        WireKind::Float16 => primitive::<Float16Type>(tensor),
        WireKind::BFloat16 => primitive::<UInt16Type>(tensor),
        WireKind::UInt8 => primitive::<UInt8Type>(tensor),
    }
}

/// `tensor` must be contiguous, on the CPU and of the element type `T`.
fn primitive<T: ArrowPrimitiveType>(tensor: Tensor) -> ArrayRef {
    let bytes = tensor.numel() * size_of::<T::Native>();
    let Some(start) = NonNull::new(tensor.data_ptr().cast::<u8>()) else {
        return Arc::new(PrimitiveArray::<T>::from_iter_values([]));
    };
    // SAFETY: `start` is valid for `bytes` bytes while the tensor lives, and the buffer owns the tensor.
    let buffer = unsafe { Buffer::from_custom_allocation(start, bytes, Arc::new(TensorMemory(tensor))) };
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(buffer), None))
}

/// Checks that the number of values of an array matches its shape.
///
/// # Errors
/// [`MessageError::Length`].
pub fn check_length(array: &ArrayRef, shape: &[i64]) -> Result<(), MessageError> {
    let expected = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size as usize));
    if expected == Some(array.len()) {
        return Ok(());
    }
    let expected = expected.unwrap_or(usize::MAX);
    Err(MessageError::Length { shape: shape.to_vec(), expected, found: array.len() })
}

/// libtorch's type for the elements of an array.
///
/// # Errors
/// [`MessageError::Type`] unless the array is Float32, Float16 or UInt8.
pub fn tensor_kind(array: &ArrayRef) -> Result<Kind, MessageError> {
    match array.data_type() {
        DataType::Float32 => Ok(Kind::Float),
        DataType::Float16 => Ok(Kind::Half),
        DataType::UInt8 => Ok(Kind::Uint8),
        other => Err(MessageError::Type { found: other.to_string(), expected: "Float32, Float16 or UInt8" }),
    }
}

/// As [`tensor_kind`], and UInt16 for bfloat16, which only training uses.
///
/// # Errors
/// [`MessageError::Type`] unless the array is Float32, Float16, UInt8 or UInt16.
pub fn activation_kind(array: &ArrayRef) -> Result<Kind, MessageError> {
    if *array.data_type() == DataType::UInt16 { Ok(Kind::BFloat16) } else { tensor_kind(array) }
}

/// Copies a message with slices of `shape` into `window`, from slice `places.start` on, and converts it to the
/// window's type. This is the only copy per hop. UInt16 is read as bfloat16; the caller checks whether this
/// edge may carry it.
///
/// # Errors
/// [`MessageError`] for another type, nulls, or a length or shape that does not match.
pub fn copy_slices(
    array: &ArrayRef,
    shape: &[i64],
    window: &Tensor,
    places: Range<i64>,
) -> Result<(), MessageError> {
    if window.size()[1..] != *shape {
        return Err(MessageError::Shape {
            found: shape.to_vec(),
            expected: format!("the window's first slice {:?}", &window.size()[1..]),
        });
    }
    let count = places.end - places.start;
    view_tensor(array, &[&[count], shape].concat(), |slice| {
        let mut target = window.narrow(0, places.start, count);
        if target.kind() != slice.kind() || target.device() != Device::Cpu || !target.is_contiguous() {
            target.copy_(slice);
            return;
        }
        // Copy on this thread: libtorch would distribute even a small copy among its threads.
        let bytes = target.numel() * target.kind().elt_size_in_bytes();
        // SAFETY: both are contiguous on the CPU with the same shape and type, and the window is not part of a
        // message.
        unsafe {
            std::ptr::copy_nonoverlapping(
                slice.data_ptr().cast::<u8>(),
                target.data_ptr().cast::<u8>(),
                bytes,
            );
        }
    })
}

/// Lends an array to `use_it` as a tensor of `shape`, without a copy. UInt16 is read as bfloat16. The tensor
/// must not be kept or changed.
///
/// # Errors
/// [`MessageError`] for another type, nulls, or a length that does not match.
pub fn view_tensor<R>(
    array: &ArrayRef,
    shape: &[i64],
    use_it: impl FnOnce(&Tensor) -> R,
) -> Result<R, MessageError> {
    if array.null_count() > 0 {
        return Err(MessageError::Nulls(array.null_count()));
    }
    check_length(array, shape)?;
    let kind = activation_kind(array)?;
    let pointer = match kind {
        Kind::Float => array.as_primitive::<Float32Type>().values().as_ptr().cast::<u8>(),
        Kind::Half => array.as_primitive::<Float16Type>().values().as_ptr().cast::<u8>(),
        Kind::BFloat16 => array.as_primitive::<UInt16Type>().values().as_ptr().cast::<u8>(),
        _ => array.as_primitive::<UInt8Type>().values().as_ptr(),
    };
    // SAFETY: the array outlives the tensor, its length was checked against the shape, and the tensor is
    // only lent for reading.
    let tensor = unsafe { Tensor::from_blob(pointer, shape, &[], kind, Device::Cpu) };
    Ok(use_it(&tensor))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Int32Array};

    use super::*;

    #[test]
    fn a_tensor_survives_the_wire() {
        let window = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu));
        let slice = Tensor::rand([4, 3], (Kind::Float, Device::Cpu)).transpose(0, 1); // not contiguous
        copy_slices(&encode_tensor(&slice, WireKind::Float32), &[3, 4], &window, 1..2).unwrap();
        assert_eq!(window.get(1), slice);
        assert_eq!(window.get(0).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn half_floats_and_labels_arrive_converted() {
        let window = Tensor::zeros([1, 3], (Kind::Float, Device::Cpu));
        let values = Tensor::from_slice(&[0.5f32, -2.0, 8.0]);
        for kind in [WireKind::Float16, WireKind::Float32] {
            copy_slices(&encode_tensor(&values, kind), &[3], &window, 0..1).unwrap();
            assert_eq!(window.get(0), values);
        }
        let exact = Tensor::zeros([1, 3], (Kind::BFloat16, Device::Cpu));
        let tiny = Tensor::from_slice(&[1e-30f32, -2.0, 1e30]).to_kind(Kind::BFloat16);
        copy_slices(&encode_tensor(&tiny, WireKind::BFloat16), &[3], &exact, 0..1).unwrap();
        assert_eq!(exact.get(0), tiny);
        let labels = Tensor::from_slice(&[1u8, 0, 255]);
        let kept = Tensor::zeros([1, 3], (Kind::Uint8, Device::Cpu));
        copy_slices(&encode_tensor(&labels, WireKind::UInt8), &[3], &kept, 0..1).unwrap();
        assert_eq!(kept.get(0), labels);
    }

    #[test]
    fn what_is_right_already_is_lent_and_not_copied() {
        let whole = Tensor::rand([2, 3, 4], (Kind::Float, Device::Cpu));
        let slice = whole.get(1);
        assert_eq!(to_wire(&slice, WireKind::Float32).data_ptr(), slice.data_ptr());
        let array = encode_tensor(&slice, WireKind::Float32);
        let lent = array.as_primitive::<Float32Type>().values().as_ptr();
        assert_eq!(lent.cast_mut().cast(), slice.data_ptr());
    }

    #[test]
    fn wrong_type_length_shape_and_nulls_are_errors() {
        let window = Tensor::zeros([1, 3], (Kind::Float, Device::Cpu));
        let message = |array: ArrayRef, shape: &[i64]| {
            copy_slices(&array, shape, &window, 0..1).unwrap_err().to_string()
        };
        assert!(message(Arc::new(Int32Array::from(vec![1, 2, 3])), &[3]).contains("Int32"));
        assert!(message(Arc::new(Float32Array::from(vec![1.0, 2.0])), &[3]).contains("needs 3 values"));
        assert!(message(Arc::new(Float32Array::from(vec![1.0; 4])), &[4]).contains("[4]"));
        assert!(message(Arc::new(Float32Array::from(vec![Some(1.0), None, None])), &[3]).contains("2 nulls"));
    }
}
