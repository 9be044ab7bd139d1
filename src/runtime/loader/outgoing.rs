//! The loader's messages: announcements, and windows slice by slice.

use std::sync::Arc;

use arrow::array::{Float32Array, UInt8Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::ArrowNativeType;
use dora_node_api::{DoraNode, MetadataParameters};
use eyre::Result;
use ndarray::{Array, Dimension};

use super::replicas::Outputs;
use crate::message::control::{CaseMessage, to_json};
use crate::message::{NodeTimes, SliceHeader, encode_text};
use crate::runtime::clock::now_ns;
use crate::runtime::events::send;
use crate::volume::PreparedCase;

/// Sends a message on `cases`.
///
/// # Errors
/// dora takes no messages.
pub(in crate::runtime) fn send_case(node: &mut DoraNode, message: &CaseMessage) -> Result<()> {
    send(node, "cases", MetadataParameters::new(), encode_text(&to_json(message)?))
}

/// Sends the slices of window `window` of a case, and its labels if there is an output for them. `header` is completed by
/// their number and shape and, in a live run, by the time that the loader takes.
///
/// # Errors
/// dora takes no messages.
pub(super) fn send_slices(
    node: &mut DoraNode,
    header: SliceHeader,
    (case, window): (&PreparedCase, usize),
    outputs: &Outputs,
    is_live: bool,
) -> Result<()> {
    let began_ns = now_ns();
    let voxels = case.window(window);
    let labels = outputs.labels.as_ref().and_then(|output| Some((output, case.label_window(window)?)));
    let voxels = voxels.permuted_axes([1, 0, 2, 3]);
    let (depth, modalities, height, width) = voxels.dim();
    let header = SliceHeader { count: depth as i64, ..header };
    // Slices are lent parts of the window, which is copied only if there are several modalities.
    let (voxels, labels) = (values_of(voxels), labels.map(|(output, labels)| (output, values_of(labels))));
    let plane = height * width;
    for seq in 0..depth {
        let times = is_live.then(|| (node.id().to_string(), [began_ns, now_ns()]));
        let times: NodeTimes = times.into_iter().collect();
        let at = |shape: &[usize]| {
            let shape = shape.iter().map(|&size| size as i64).collect();
            SliceHeader { times: times.clone(), ..header.at(seq as i64, shape) }.to_parameters()
        };
        let length = modalities * plane;
        let slice = Float32Array::new(voxels.slice(seq * length, length), None);
        send(node, &outputs.slices, at(&[modalities, height, width]), Arc::new(slice))?;
        if let Some((output, labels)) = &labels {
            let slice = UInt8Array::new(labels.slice(seq * plane, plane), None);
            send(node, output, at(&[height, width]), Arc::new(slice))?;
        }
    }
    Ok(())
}

/// The values of an array in C order. Copies only if they are in another order in memory.
fn values_of<T: ArrowNativeType, D: Dimension>(array: Array<T, D>) -> ScalarBuffer<T> {
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
