//! A node between loader and writer: joins windows, computes on a separate thread, sends the results, and reports
//! every second which windows it is working on.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use arrow::array::ArrayRef;
use dora_node_api::{DoraNode, EventStream, MetadataParameters};
use eyre::{Result, bail, eyre};
use tch::Tensor;
use tokio::sync::mpsc::unbounded_channel;

use super::assembly::{Assembler, Window};
use super::events::{Flow, Happening, send, serve};
use super::input::Input;
use super::join::join;
use super::startup::{compute_here, one_line};
use super::turns::Turns;
use crate::bundle::slices_per_message;
use crate::compute::Compute;
use crate::message::control::{Status, to_json};
use crate::message::{SliceHeader, WireKind, encode_tensor, encode_text, to_wire};

/// Output for reports on the windows being worked on.
const STATUS: &str = "status";

/// The computation of a node.
pub trait Stage: Send + 'static {
    /// The inputs of this stage. A window is complete when all those that the dataflow connects have arrived.
    fn inputs(&self) -> &'static [Input];

    /// Device and type of its network. `None` if it has none; libtorch then has one thread.
    fn network(&self) -> Option<Compute>;

    /// Computes one window and emits its results. Called on the compute thread.
    ///
    /// # Errors
    /// Anything that prevents the computation of the window; its case fails.
    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()>;
}

enum Computed {
    Output(Output),
    Done { segment: i64, attempt: i64 },
    Failed { segment: i64, attempt: i64, error: eyre::Report },
}

/// A message for an output of a computing node.
#[derive(Debug, Clone)]
pub struct Output {
    /// Name of the output.
    pub output: &'static str,
    /// Its metadata.
    pub header: SliceHeader,
    /// Its array.
    pub array: ArrayRef,
}

impl Output {
    /// Sends the message.
    ///
    /// # Errors
    /// An output that dora refuses.
    pub fn send(self, node: &mut DoraNode) -> Result<()> {
        send(node, self.output, self.header.to_parameters(), self.array)
    }
}

/// Collects the results of a [`Stage`].
pub struct Emit<'a> {
    sink: &'a mut dyn FnMut(Output),
    /// Outputs that the dataflow declares; results for other outputs are not encoded.
    outputs: &'a BTreeSet<String>,
}

impl<'a> Emit<'a> {
    /// Passes the results for `outputs` to `sink`.
    pub fn new(outputs: &'a BTreeSet<String>, sink: &'a mut dyn FnMut(Output)) -> Self {
        Self { sink, outputs }
    }

    /// Sends one array.
    pub fn array(&mut self, output: &'static str, header: SliceHeader, array: ArrayRef) {
        (self.sink)(Output { output, header, array });
    }

    /// A window in its wire type, with at most one copy; its slices are lent. `None` if the dataflow does not
    /// declare the output.
    fn on_wire(&self, output: &str, tensor: &Tensor, kind: WireKind) -> Option<Tensor> {
        self.outputs.contains(output).then(|| to_wire(tensor, kind))
    }

    /// Sends `[D, …]` with several slices per message, in as few messages as possible: between the parts of a
    /// network in training.
    pub fn runs(
        &mut self,
        output: &'static str,
        window: &SliceHeader,
        tensor: &Tensor,
        kind: WireKind,
        level: Option<(i64, i64)>,
    ) {
        let Some(window_on_wire) = self.on_wire(output, tensor, kind) else { return };
        let depth = tensor.size()[0];
        let slice_bytes = window_on_wire.numel() * kind.kind().elt_size_in_bytes() / depth.max(1) as usize;
        let most = slices_per_message(slice_bytes) as i64;
        for seq in (0..depth).step_by(most as usize) {
            let slices = most.min(depth - seq);
            let run = window_on_wire.narrow(0, seq, slices);
            let header = SliceHeader { level, slices: Some(slices), ..window.at(seq, run.size()) };
            self.array(output, header, encode_tensor(&run, kind));
        }
    }

    /// Sends `[D, …]` with one message per slice; as feature level `level` of `levels` if given.
    pub fn slices(
        &mut self,
        output: &'static str,
        window: &SliceHeader,
        tensor: &Tensor,
        kind: WireKind,
        level: Option<(i64, i64)>,
    ) {
        let Some(window_on_wire) = self.on_wire(output, tensor, kind) else { return };
        for seq in 0..tensor.size()[0] {
            let slice = window_on_wire.get(seq);
            let header = SliceHeader { level, ..window.at(seq, slice.size()) };
            self.array(output, header, encode_tensor(&slice, kind));
        }
    }
}

/// Runs a node: joins the dataflow and works until its inputs close.
///
/// If a window violates the contract or cannot be computed, this is reported on `status` and its case fails; a node
/// without that output exits with the error.
///
/// # Errors
/// A dataflow that does not connect the stage's inputs; an output that dora refuses.
pub fn run_stage(stage: impl Stage) -> Result<()> {
    let (mut node, mut events) = join()?;
    serve_stage(&mut node, &mut events, stage)
}

fn serve_stage(node: &mut DoraNode, events: &mut EventStream, mut stage: impl Stage) -> Result<()> {
    let connected: Vec<Input> = stage
        .inputs()
        .iter()
        .filter(|input| node.node_config().inputs.keys().any(|id| id.as_ref() as &str == input.name))
        .copied()
        .collect();
    if connected.is_empty() {
        let names: Vec<_> = stage.inputs().iter().map(|input| input.name).collect();
        bail!("the dataflow connects none of the inputs {names:?}");
    }
    let outputs = declared_outputs(node);
    let reports_status = outputs.contains(STATUS);
    let (to_compute, windows) = mpsc::channel::<Window>();
    let (to_io, results) = unbounded_channel();
    let turns = Turns::new(stage.network(), node.dataflow_id());
    thread::Builder::new().name("compute".into()).spawn(move || {
        if stage.network().is_some() {
            compute_here();
        }
        for window in windows {
            let (segment, attempt) = (window.header.segment_id, window.header.attempt);
            let case_id = window.header.case_id.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                // The I/O loop outlives this thread, except at exit, when no results are needed.
                let mut sink = |output| drop(to_io.send(Computed::Output(output)));
                let _turn = turns.take()?;
                tch::no_grad(|| stage.process(window, &mut Emit::new(&outputs, &mut sink)))
            }));
            let message = match outcome {
                Ok(Ok(())) => Computed::Done { segment, attempt },
                Ok(Err(error)) => {
                    Computed::Failed { segment, attempt, error: error.wrap_err(format!("case {case_id}")) }
                }
                Err(panic) => Computed::Failed {
                    segment,
                    attempt,
                    error: eyre!("case {case_id}: {}", panic_text(&*panic)),
                },
            };
            if to_io.send(message).is_err() {
                return;
            }
        }
    })?;

    // A window that cannot be computed fails its case, not the node: the loader is told and names the case.
    let refuse = |node: &mut DoraNode, segment: i64, error: &eyre::Report| -> Result<()> {
        let error = one_line(&format!("{}: {error:#}", node.id()));
        if !reports_status {
            bail!("{error}");
        }
        tracing::error!("{error}");
        let status = Status { segments: Vec::new(), failed: vec![(segment, error)] };
        send(node, STATUS, MetadataParameters::new(), encode_text(&to_json(&status)?))
    };
    let mut assembler = Assembler::new(connected.clone());
    let mut working: BTreeSet<(i64, i64)> = BTreeSet::new();
    serve(node, events, results, |node, happening| {
        match happening {
            Happening::Input { id, parameters, array } => {
                let Some(input) = connected.iter().find(|input| input.name == id) else {
                    return Ok(Flow::Continue);
                };
                let header = match SliceHeader::parse(&parameters) {
                    Ok(header) => header,
                    Err(error) => {
                        // The window of this message is unknown. If it was one of this run, it is missed and sent
                        // again.
                        tracing::error!("input `{id}`: {error}");
                        return Ok(Flow::Continue);
                    }
                };
                let (segment, case_id) = (header.segment_id, header.case_id.clone());
                match assembler.add(input, header, &array) {
                    Ok(None) => {}
                    Ok(Some(window)) => {
                        working.insert((window.header.segment_id, window.header.attempt));
                        to_compute.send(window).map_err(|_| eyre!("the compute thread has ended"))?;
                    }
                    Err(error) => refuse(node, segment, &eyre!("input `{id}`, case {case_id}: {error}"))?,
                }
            }
            Happening::Computed(Computed::Output(output)) => output.send(node)?,
            Happening::Computed(Computed::Done { segment, attempt }) => {
                working.remove(&(segment, attempt));
            }
            Happening::Computed(Computed::Failed { segment, attempt, error }) => {
                working.remove(&(segment, attempt));
                refuse(node, segment, &error)?;
            }
            Happening::Tick => {
                if reports_status && !working.is_empty() {
                    let segments = working.iter().map(|&(segment, _)| segment).collect();
                    let json = to_json(&Status { segments, failed: Vec::new() })?;
                    send(node, STATUS, MetadataParameters::new(), encode_text(&json))?;
                }
            }
            Happening::ComputeEnded => bail!("the compute thread has ended"),
            Happening::InputClosed(_) | Happening::NodeFailed { .. } => {}
            Happening::InputsClosed => {
                let incomplete = assembler.incomplete().len();
                if incomplete + working.len() > 0 {
                    tracing::warn!(
                        "input ended with {incomplete} windows incomplete and {} unfinished",
                        working.len()
                    );
                }
                return Ok(Flow::Finish);
            }
            Happening::Stopped => return Ok(Flow::Finish),
        }
        Ok(Flow::Continue)
    })
}

/// Outputs that the dataflow declares.
pub(super) fn declared_outputs(node: &DoraNode) -> BTreeSet<String> {
    node.node_config().outputs.iter().map(ToString::to_string).collect()
}

/// The message of a panic on one line, without the C++ back trace of libtorch's messages.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the computation panicked");
    one_line(text)
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_window_goes_in_as_few_runs_as_messages_may_have_bytes() {
        let outputs = BTreeSet::from(["a".to_owned()]);
        let window = SliceHeader {
            session_id: "s".into(),
            segment_id: 3,
            attempt: 1,
            seq: 0,
            count: 5,
            case_id: "c".into(),
            classes: 2,
            level: None,
            slices: None,
            covered: None,
            shape: Vec::new(),
        };
        let runs = |values_a_slice: usize| {
            let mut sent = Vec::new();
            let mut sink = |output: Output| sent.push((output.header, output.array.len()));
            let tensor = Tensor::zeros([5, values_a_slice as i64], (Kind::Float, Device::Cpu));
            let mut emit = Emit::new(&outputs, &mut sink);
            emit.runs("a", &window, &tensor, WireKind::Float32, Some((1, 2)));
            emit.runs("not declared", &window, &tensor, WireKind::Float32, None);
            assert!(sent.iter().all(|(header, length)| {
                header.level == Some((1, 2))
                    && header.attempt == 1
                    && header.shape == [header.slices.unwrap(), values_a_slice as i64]
                    && header.shape.iter().product::<i64>() == *length as i64
            }));
            sent.iter().map(|(header, _)| (header.seq, header.slices.unwrap())).collect::<Vec<_>>()
        };
        let values_a_message = 4 << 20; // 16 MiB
        assert_eq!(runs(10), [(0, 5)]);
        assert_eq!(runs(values_a_message / 2), [(0, 2), (2, 2), (4, 1)]);
        assert_eq!(runs(values_a_message + 1), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
    }
}
