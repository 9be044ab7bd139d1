//! Images of a series in the loader's memory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Float32Type;
use dora_node_api::MetadataParameters;

use crate::message::live::Frame;
use crate::message::{MessageError, check_length};
use crate::runtime::clock::now_ns;

/// An image that has arrived.
#[derive(Debug)]
pub(super) struct Image {
    pub frame: Frame,
    /// When it arrived here, nanoseconds since 1970.
    pub arrived_ns: i64,
    /// Values row by row, from the first row on.
    pub pixels: Vec<f32>,
}

impl Image {
    /// Takes a message of the edge `frames`. Values that are not finite become the smallest of the image.
    ///
    /// # Errors
    /// A message that violates the contract.
    pub fn receive(parameters: &MetadataParameters, array: &ArrayRef) -> Result<Arc<Self>, MessageError> {
        let frame = Frame::parse(parameters)?;
        let values = array.as_primitive_opt::<Float32Type>().ok_or_else(|| MessageError::Type {
            found: array.data_type().to_string(),
            expected: "Float32",
        })?;
        if values.null_count() > 0 {
            return Err(MessageError::Nulls(values.null_count()));
        }
        let placement = &frame.placement;
        check_length(array, &[placement.rows as i64, placement.columns as i64])?;
        let mut pixels = values.values().to_vec();
        let wrong = pixels.iter().filter(|value| !value.is_finite()).count();
        if wrong > 0 {
            let Frame { series_id, index, .. } = &frame;
            tracing::warn!(
                "series {series_id}: {wrong} values of image {} are not finite: replaced by its smallest value",
                index + 1
            );
            let finite = pixels.iter().copied().filter(|value| value.is_finite());
            let smallest = finite.reduce(f32::min).unwrap_or(0.0);
            pixels.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = smallest);
        }
        Ok(Arc::new(Self { frame, arrived_ns: now_ns(), pixels }))
    }

    /// Rows from the last to the first, as a volume has them.
    pub fn rows_of_volume(&self) -> impl Iterator<Item = &[f32]> {
        self.pixels.chunks_exact(self.frame.placement.columns).rev()
    }
}
