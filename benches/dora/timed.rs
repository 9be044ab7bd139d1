//! A source that times its messages from sending to acknowledgement, for the benches of the transport.

use std::fs;
use std::path::Path;
use std::time::Instant;

use dora_node_api::{DoraNode, Event};
use eyre::{Result, WrapErr, bail, eyre};
use serde::{Deserialize, Serialize};

/// The messages that a source sends.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Number of messages before timing starts.
    pub warm_up: usize,
    /// Number of timed messages.
    pub timed: usize,
    /// Most messages in flight without acknowledgement.
    pub in_flight: usize,
}

#[derive(Serialize, Deserialize)]
struct Sent {
    seconds: f64,
}

/// Joins the dataflow, calls `send` for each message (with its number from 0), and writes the seconds that the timed
/// messages took to the file `report`.
///
/// # Errors
/// Errors of `send`, or if the dataflow ends before everything is acknowledged.
pub fn send_all(
    report: Option<&Path>,
    counts: Counts,
    mut send: impl FnMut(&mut DoraNode, usize) -> Result<()>,
) -> Result<()> {
    let report = report.ok_or_else(|| eyre!("--report is missing"))?;
    let (mut node, mut events) = DoraNode::init_from_env().map_err(|error| eyre!("{error}"))?;
    let all = counts.warm_up + counts.timed;
    let (mut sent, mut acked) = (0, 0);
    let mut clock = Instant::now();
    while acked < all {
        while sent < acked + counts.in_flight && sent < all {
            send(&mut node, sent)?;
            sent += 1;
        }
        match events.recv() {
            Some(Event::Input { .. }) => acked += 1,
            Some(Event::Stop(_)) | None => bail!("stopped after {acked} messages"),
            Some(_) => {}
        }
        if acked == counts.warm_up {
            clock = Instant::now();
        }
    }
    let seconds = clock.elapsed().as_secs_f64();
    fs::write(report, serde_json::to_string(&Sent { seconds })?)?;
    Ok(())
}

/// The seconds that a source has written.
///
/// # Errors
/// A report that cannot be read.
pub fn seconds(report: &Path) -> Result<f64> {
    let sent: Sent = serde_json::from_str(&fs::read_to_string(report)?).wrap_err("the source's report")?;
    Ok(sent.seconds)
}
