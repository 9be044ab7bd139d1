//! Masks of the writer on their way back to the clients that stream by MRD.

use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::UInt8Type;
use dora_node_api::MetadataParameters;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::message::live::Mask;
use crate::scanner::mrd::MaskLink;

/// Input of the masks.
pub(super) const MASKS: &str = "masks";
/// How long masks may come after the loader has ended: they come by another way than this news.
const GRACE: Duration = Duration::from_secs(10);
/// How long clients may then take to read what they are sent, and how long if the node is stopped.
const READING_TIME: Duration = Duration::from_secs(30);
const STOPPING_TIME: Duration = Duration::from_secs(2);

/// The way of masks, if there is an MRD server.
pub(super) struct MaskReturn {
    link: Option<MaskLink>,
    /// When the loader has ended.
    ended: Option<Instant>,
}

impl MaskReturn {
    pub fn new(link: Option<MaskLink>) -> Self {
        Self { link, ended: None }
    }

    /// Passes a mask on to the client of its image.
    pub fn on_mask(&self, parameters: &MetadataParameters, array: &ArrayRef) {
        let Some(link) = &self.link else { return };
        let mask = match Mask::parse(parameters) {
            Ok(mask) => mask,
            Err(error) => return tracing::error!("input `{MASKS}`: {error}"),
        };
        match array.as_primitive_opt::<UInt8Type>() {
            Some(classes) if link.wants(&mask) => link.on_mask(&mask, classes.values().to_vec()),
            Some(_) => {}
            None => tracing::error!("input `{MASKS}`: {} instead of UInt8", array.data_type()),
        }
    }

    /// Everything about a series is written, or it has failed.
    pub fn on_done(&self, series_id: &str, error: Option<String>) {
        if let Some(link) = &self.link {
            link.on_done(series_id, error);
        }
    }

    /// The loader has ended.
    pub fn end(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// Once the loader has ended: whether no client awaits masks any more, or has waited long enough.
    pub fn is_over(&self, now: Instant) -> Option<bool> {
        let ended = self.ended?;
        let is_waiting = self.link.as_ref().is_some_and(MaskLink::is_waiting);
        Some(!is_waiting || now.duration_since(ended) >= GRACE)
    }

    /// Lets clients read what is on its way to them.
    pub fn finish(&self, network: &Runtime) {
        let Some(link) = &self.link else { return };
        let most = if self.ended.is_some() { READING_TIME } else { STOPPING_TIME };
        let stopped = network.block_on(async { timeout(most, link.stop()).await });
        if stopped.is_err() {
            tracing::warn!("MRD clients have not read all of their masks in time");
        }
    }
}
