//! Sending DICOM segmentations to a receiver, by an outbox in the folder of the results.

use std::sync::Arc;
use std::time::Duration;

use eyre::{Result, WrapErr};

use crate::runtime::Settings;
use crate::scanner::outbox::{Courier, Outbox, OutboxLimits};
use crate::scanner::sender::Destination;

/// Name of the outbox in the folder of the results.
const FOLDER: &str = ".outbox";
/// How long the last segmentations may take at the end of a run, and when it is stopped: dora ends nodes after ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_IF_STOPPED: Duration = Duration::from_secs(5);

/// Opens the outbox, and sends what an earlier run has left in it.
///
/// # Errors
/// An outbox that cannot be used.
pub(super) fn start(settings: &Settings, to: &Destination) -> Result<(Arc<Outbox>, Courier)> {
    let folder = settings.output.join(settings.part.name(FOLDER));
    let outbox = Outbox::open(&folder, OutboxLimits::default());
    let outbox = Arc::new(outbox.wrap_err_with(|| format!("outbox {}", folder.display()))?);
    let waiting = outbox.waiting()?.len();
    if waiting > 0 {
        tracing::info!("DICOM segmentations of an earlier run that wait to be sent: {waiting}");
    }
    Ok((outbox.clone(), Courier::start(outbox, to.clone())?))
}

/// Sends what is left at the end of a run, as far as the receiver takes it.
pub(super) fn finish(courier: Courier, is_stopped: bool) {
    match courier.finish(if is_stopped { PATIENCE_IF_STOPPED } else { PATIENCE }) {
        Ok(0) => {}
        Ok(waiting) => tracing::warn!(
            "DICOM segmentations that are not sent yet: {waiting}; the next run with this output folder and receiver sends them"
        ),
        Err(error) => tracing::warn!("outbox: {error}"),
    }
}
