//! Output `overlay`: the newest image with the outlines of its classes, in the convention of dora-hub for images.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt8Array};
use arrow::datatypes::Float32Type;
use dora_node_api::{DoraNode, MetadataParameters, Parameter};
use eyre::Result;
use serde_yaml::Value;

use super::live::ImageMask;
use crate::message::live::{Frame, Mask};
use crate::runtime::events::send;
use crate::runtime::settings::number;
use crate::view::Overlays;

/// Input of the images.
pub(super) const FRAMES: &str = "frames";
const OVERLAY: &str = "overlay";

/// Pictures, if somebody wants them.
pub(super) struct OverlayOutput {
    overlays: Overlays,
}

impl OverlayOutput {
    /// `None` if the dataflow does not declare the output, or if nobody in it takes it and `SPSAM_OVERLAY` does not ask for
    /// it.
    ///
    /// # Errors
    /// A setting that is no number.
    pub fn if_wanted(node: &DoraNode) -> Result<Option<Self>> {
        let is_declared = node.node_config().outputs.iter().any(|output| output.as_ref() as &str == OVERLAY);
        let is_wanted = is_declared && (number("SPSAM_OVERLAY", 0)? > 0 || is_taken(node));
        Ok(is_wanted.then(|| Self { overlays: Overlays::default() }))
    }

    /// An image has arrived. One that violates the contract is left out, as the loader reports it.
    pub fn on_frame(&mut self, parameters: &MetadataParameters, array: &ArrayRef) {
        if let Ok(frame) = Frame::parse(parameters)
            && let Some(pixels) = array.as_primitive_opt::<Float32Type>()
        {
            self.overlays.on_frame(&frame, pixels.values());
        }
    }

    /// Sends the newest image of these masks.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn on_masks(&self, node: &mut DoraNode, masks: &[ImageMask]) -> Result<()> {
        let newest = masks.iter().max_by_key(|ImageMask { mask, .. }| (mask.received_ns, mask.index));
        let Some(ImageMask { mask, pixels }) = newest else { return Ok(()) };
        let Some(picture) = self.overlays.draw(mask, pixels) else { return Ok(()) };
        let parameters = parameters(mask, [picture.width, picture.height]);
        send(node, OVERLAY, parameters, Arc::new(UInt8Array::from(picture.pixels)))
    }
}

/// Whether another node of the dataflow takes the output.
fn is_taken(node: &DoraNode) -> bool {
    let dataflow = node.dataflow_descriptor().ok().and_then(|dataflow| serde_yaml::to_value(dataflow).ok());
    dataflow.is_some_and(|dataflow| names(&dataflow, &format!("{}/{OVERLAY}", node.id())))
}

/// Whether a part of a dataflow's description names a source: `input: node/output`, or `input: { source: node/output }`.
fn names(part: &Value, source: &str) -> bool {
    match part {
        Value::String(text) => text == source,
        Value::Sequence(parts) => parts.iter().any(|part| names(part, source)),
        Value::Mapping(parts) => parts.values().any(|part| names(part, source)),
        _ => false,
    }
}

/// Keys of dora-hub, and those of the mask that say which image it is.
fn parameters(mask: &Mask, [width, height]: [usize; 2]) -> MetadataParameters {
    let mut parameters = mask.to_parameters();
    parameters.extend([
        ("shape".into(), Parameter::ListInt(vec![height as i64, width as i64, 3])),
        ("encoding".into(), Parameter::String("rgb8".into())),
        ("width".into(), Parameter::Integer(width as i64)),
        ("height".into(), Parameter::Integer(height as i64)),
        ("primitive".into(), Parameter::String("image".into())),
    ]);
    parameters
}
