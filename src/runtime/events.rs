//! The event loop of every node: dora's events, a tick per second, and results of the compute thread.

use std::time::Duration;

use arrow::array::ArrayRef;
use dora_node_api::dora_core::config::DataId;
use dora_node_api::{DoraArray, DoraNode, Event, EventStream, MetadataParameters, StopCause};
use eyre::{Report, Result, bail};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};

use super::join::Leave;
use super::notice::{Notice, tell};
use super::startup::one_line;
use crate::bundle::MAX_MESSAGE_BYTES;

const TICK: Duration = Duration::from_secs(1);

/// An event to which a node must react.
pub enum Happening<T> {
    /// A message on an input.
    Input {
        /// Name of the input.
        id: String,
        /// Its metadata.
        parameters: MetadataParameters,
        /// Its array.
        array: ArrayRef,
    },
    /// A result of the compute thread.
    Computed(T),
    /// A second has passed.
    Tick,
    /// The compute thread has ended.
    ComputeEnded,
    /// One input is closed.
    InputClosed(String),
    /// A node that sends to this one has died and is not restarted.
    NodeFailed {
        /// Its name.
        node: String,
    },
    /// All inputs are closed.
    InputsClosed,
    /// The user stops the dataflow.
    Stopped,
}

/// Whether to continue.
#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// Wait for the next event.
    Continue,
    /// Leave the loop.
    Finish,
}

/// Handles events until `react` finishes or fails.
///
/// # Errors
/// Errors of `react`.
pub fn serve<T>(
    node: &mut DoraNode,
    events: &mut EventStream,
    computed: UnboundedReceiver<T>,
    react: impl FnMut(&mut DoraNode, Happening<T>) -> Result<Flow>,
) -> Result<()> {
    let report = |input: &str, dropped| tracing::error!("{dropped} messages lost on input `{input}`");
    serve_dropping(node, events, computed, report, react)
}

/// [`serve`] for a node whose inputs may drop messages; `on_dropped` is told of the input and how many, every second.
///
/// # Errors
/// Errors of `react`.
pub fn serve_dropping<T>(
    node: &mut DoraNode,
    events: &mut EventStream,
    mut computed: UnboundedReceiver<T>,
    mut on_dropped: impl FnMut(&str, u64),
    mut react: impl FnMut(&mut DoraNode, Happening<T>) -> Result<Flow>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut compute_is_running = true;
        let mut events_come = true;
        loop {
            let happening = tokio::select! {
                event = events.recv_async(), if events_come => match event {
                    None => {
                        events_come = false;
                        Happening::InputsClosed
                    }
                    Some(event) => match translate(event) {
                        Some(happening) => happening,
                        None => continue,
                    },
                },
                message = computed.recv(), if compute_is_running => match message {
                    Some(message) => Happening::Computed(message),
                    None => {
                        compute_is_running = false;
                        Happening::ComputeEnded
                    }
                },
                _ = ticks.tick() => {
                    for (input, dropped) in events.drain_drop_counts() {
                        on_dropped(input.as_ref(), dropped);
                    }
                    Happening::Tick
                }
            };
            if react(node, happening)? == Flow::Finish {
                return Ok(());
            }
        }
    })
}

fn translate<T>(event: Event) -> Option<Happening<T>> {
    match event {
        Event::Input { id, metadata, data } => {
            Some(Happening::Input { id: id.to_string(), parameters: metadata.parameters, array: array(data) })
        }
        Event::InputClosed { id } => Some(Happening::InputClosed(id.to_string())),
        Event::Stop(StopCause::AllInputsClosed) => Some(Happening::InputsClosed),
        Event::Stop(_) => Some(Happening::Stopped),
        Event::NodeRestarted { id } => {
            tracing::warn!("node `{id}` has restarted");
            None
        }
        Event::NodeFailed { source_node_id, error, .. } => {
            tracing::info!("node `{source_node_id}` failed: {error}");
            let node = source_node_id.to_string();
            tell(&Notice::Died { node: node.clone(), error: one_line(&error) });
            Some(Happening::NodeFailed { node })
        }
        Event::Error(error) => {
            tracing::error!("dora: {error}");
            None
        }
        _ => None,
    }
}

fn array(data: DoraArray) -> ArrayRef {
    ArrayRef::from(data)
}

/// Sends an array to an output.
///
/// # Errors
/// A message larger than dora's limit; [`Leave::EndedEarly`] if dora no longer accepts messages because the dataflow
/// is ending.
pub fn send(
    node: &mut DoraNode,
    output: &str,
    parameters: MetadataParameters,
    array: ArrayRef,
) -> Result<()> {
    let bytes = array.to_data().get_slice_memory_size().unwrap_or_default();
    if bytes > MAX_MESSAGE_BYTES {
        bail!("output `{output}`: a message has {bytes} bytes, dora takes {MAX_MESSAGE_BYTES}");
    }
    let id = DataId::from(output.to_owned());
    node.send_output(id, parameters, DoraArray::from(array)).map_err(|error| {
        tracing::debug!("output `{output}`: {error:?}");
        Report::new(Leave::EndedEarly(format!("dora takes no more messages on output `{output}`")))
    })
}
