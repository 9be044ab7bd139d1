//! What the loader tells the source: which images have arrived, and which series need not be kept.

use std::collections::VecDeque;

use dora_node_api::{DoraNode, MetadataParameters};
use eyre::Result;
use uuid::Uuid;

use super::series::Key;
use crate::message::control::to_json;
use crate::message::encode_text;
use crate::message::live::{FrameAck, FrameAckMessage};
use crate::runtime::events::send;

/// Finished series that are remembered, to answer the source again.
const MAX_DONE: usize = 1024;

/// The edge `frame_ack`, and the series that are finished.
pub(super) struct SourceLink {
    loader_id: String,
    /// Finished series, with their errors.
    done: VecDeque<(Key, Option<String>)>,
}

impl SourceLink {
    pub fn new() -> Self {
        Self { loader_id: Uuid::new_v4().to_string(), done: VecDeque::new() }
    }

    /// Sends an acknowledgement.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn acknowledge(&self, node: &mut DoraNode, ack: FrameAck) -> Result<()> {
        let json = to_json(&FrameAckMessage { loader_id: self.loader_id.clone(), ack })?;
        send(node, "frame_ack", MetadataParameters::new(), encode_text(&json))
    }

    /// A series is finished.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn finish(&mut self, node: &mut DoraNode, key: &Key, error: Option<String>) -> Result<()> {
        self.done.push_back((key.clone(), error));
        self.done.drain(..self.done.len().saturating_sub(MAX_DONE));
        self.answer_if_done(node, key).map(|_| ())
    }

    /// Answers a message about a series that is finished; false if it is not.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn answer_if_done(&self, node: &mut DoraNode, key: &Key) -> Result<bool> {
        let Some((_, error)) = self.done.iter().find(|(done, _)| done == key) else { return Ok(false) };
        let (series_id, revision) = key.clone();
        self.acknowledge(node, FrameAck::Done { series_id, revision, error: error.clone() })?;
        Ok(true)
    }
}
