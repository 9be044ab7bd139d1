//! The voxels of a window as the values of messages.

use arrow::buffer::ScalarBuffer;
use arrow::datatypes::ArrowNativeType;
use ndarray::{Array, Dimension};

/// The values of an array in C order. Copies only if they are in another order in memory.
pub(super) fn values_of<T: ArrowNativeType, D: Dimension>(array: Array<T, D>) -> ScalarBuffer<T> {
    let array = if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() };
    let length = array.len();
    let (values, start) = array.into_raw_vec_and_offset();
    ScalarBuffer::from(values).slice(start.unwrap_or(0), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slices_of_a_window_are_lent_and_of_several_modalities_gathered() {
        for modalities in [1, 2] {
            let window = Array::from_shape_fn((modalities, 3, 2, 2), |(m, d, y, x)| {
                (100 * m + 10 * d + 2 * y + x) as f32
            });
            let start = window.as_ptr();
            let values = values_of(window.permuted_axes([1, 0, 2, 3]));
            assert_eq!(values.as_ptr() == start, modalities == 1);
            let second = values.slice(4 * modalities, 4 * modalities);
            let expected: Vec<f32> =
                (0..modalities).flat_map(|m| (0..4).map(move |i| (100 * m + 10 + i) as f32)).collect();
            assert_eq!(second.to_vec(), expected);
        }
    }
}
