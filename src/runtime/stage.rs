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
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::assembly::{Assembler, Window};
use super::clock::now_ns;
use super::events::{Flow, Happening, send, serve};
use super::input::Input;
use super::join::join;
use super::startup::one_line;
use super::threads::compute_here;
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
    Output(Box<Output>),
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

fn serve_stage(node: &mut DoraNode, events: &mut EventStream, stage: impl Stage) -> Result<()> {
    let connected = connected_inputs(node, &stage)?;
    let outputs = declared_outputs(node);
    let (to_compute, windows) = mpsc::channel();
    let (to_io, results) = unbounded_channel();
    let mut desk = Desk {
        assembler: Assembler::new(connected.clone()),
        connected,
        reports_status: outputs.contains(STATUS),
        to_compute,
        working: BTreeSet::new(),
    };
    let turns = Turns::new(stage.network(), node.dataflow_id());
    let mut computing = Computing { name: node.id().to_string(), stage, outputs, turns, to_io };
    thread::Builder::new().name("compute".into()).spawn(move || computing.serve(&windows))?;
    serve(node, events, results, |node, happening| {
        match happening {
            Happening::Input { id, parameters, array } => desk.on_input(node, &id, &parameters, &array)?,
            Happening::Computed(computed) => desk.on_computed(node, computed)?,
            Happening::Tick => desk.on_tick(node)?,
            Happening::ComputeEnded => bail!("the compute thread has ended"),
            Happening::InputClosed(_) | Happening::NodeFailed { .. } => {}
            Happening::InputsClosed => {
                desk.warn_of_unfinished();
                return Ok(Flow::Finish);
            }
            Happening::Stopped => return Ok(Flow::Finish),
        }
        Ok(Flow::Continue)
    })
}

/// The inputs of a stage that the dataflow connects.
fn connected_inputs(node: &DoraNode, stage: &impl Stage) -> Result<Vec<Input>> {
    let is_connected = |input: &&Input| node.node_config().inputs.keys().any(|id| input.takes(id.as_ref()));
    let connected: Vec<Input> = stage.inputs().iter().filter(is_connected).copied().collect();
    if connected.is_empty() {
        let names: Vec<_> = stage.inputs().iter().map(|input| input.name).collect();
        bail!("the dataflow connects none of the inputs {names:?}");
    }
    Ok(connected)
}

/// The compute thread.
struct Computing<S> {
    /// Id of the node.
    name: String,
    stage: S,
    outputs: BTreeSet<String>,
    turns: Turns,
    to_io: UnboundedSender<Computed>,
}

impl<S: Stage> Computing<S> {
    fn serve(&mut self, windows: &mpsc::Receiver<Window>) {
        if self.stage.network().is_some() {
            compute_here();
        }
        for window in windows {
            let computed = self.compute(window);
            if self.to_io.send(computed).is_err() {
                return;
            }
        }
    }

    /// Computes a window and passes its results on.
    fn compute(&mut self, window: Window) -> Computed {
        let (segment, attempt) = (window.header.segment_id, window.header.attempt);
        let case_id = window.header.case_id.clone();
        let Self { name, stage, outputs, turns, to_io } = self;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let _turn = turns.take()?;
            let began_ns = (!window.header.times.is_empty()).then(now_ns);
            let mut sink = |mut output: Output| {
                if let Some(began_ns) = began_ns {
                    output.header.times.insert(name.clone(), [began_ns, now_ns()]);
                }
                // The I/O loop outlives this thread, except at exit, when no results are needed.
                drop(to_io.send(Computed::Output(Box::new(output))));
            };
            tch::no_grad(|| stage.process(window, &mut Emit::new(outputs, &mut sink)))
        }));
        let error = match outcome {
            Ok(Ok(())) => return Computed::Done { segment, attempt },
            Ok(Err(error)) => error.wrap_err(format!("case {case_id}")),
            Err(panic) => eyre!("case {case_id}: {}", panic_text(&*panic)),
        };
        Computed::Failed { segment, attempt, error }
    }
}

/// The state of the event loop.
struct Desk {
    connected: Vec<Input>,
    assembler: Assembler,
    reports_status: bool,
    to_compute: mpsc::Sender<Window>,
    /// Segments and attempts of the windows that are waiting or being computed.
    working: BTreeSet<(i64, i64)>,
}

impl Desk {
    fn on_input(
        &mut self,
        node: &mut DoraNode,
        id: &str,
        parameters: &MetadataParameters,
        array: &ArrayRef,
    ) -> Result<()> {
        let Some(input) = self.connected.iter().find(|input| input.takes(id)) else { return Ok(()) };
        let header = match SliceHeader::parse(parameters) {
            Ok(header) => header,
            Err(error) => {
                // The window of this message is unknown. If it was one of this run, it is missed and sent again.
                tracing::error!("input `{id}`: {error}");
                return Ok(());
            }
        };
        let (segment, case_id) = (header.segment_id, header.case_id.clone());
        match self.assembler.add(input, header, array) {
            Ok(None) => Ok(()),
            Ok(Some(window)) => {
                self.working.insert((window.header.segment_id, window.header.attempt));
                self.to_compute.send(window).map_err(|_| eyre!("the compute thread has ended"))
            }
            Err(error) => self.refuse(node, segment, &eyre!("input `{id}`, case {case_id}: {error}")),
        }
    }

    fn on_computed(&mut self, node: &mut DoraNode, computed: Computed) -> Result<()> {
        match computed {
            Computed::Output(output) => output.send(node),
            Computed::Done { segment, attempt } => {
                self.working.remove(&(segment, attempt));
                Ok(())
            }
            Computed::Failed { segment, attempt, error } => {
                self.working.remove(&(segment, attempt));
                self.refuse(node, segment, &error)
            }
        }
    }

    /// A window that cannot be computed fails its case, not the node: the loader is told and names the case.
    fn refuse(&self, node: &mut DoraNode, segment: i64, error: &eyre::Report) -> Result<()> {
        let error = one_line(&format!("{}: {error:#}", node.id()));
        if !self.reports_status {
            bail!("{error}");
        }
        tracing::error!("{error}");
        report(node, &Status { segments: Vec::new(), failed: vec![(segment, error)] })
    }

    fn on_tick(&self, node: &mut DoraNode) -> Result<()> {
        if !self.reports_status || self.working.is_empty() {
            return Ok(());
        }
        let segments = self.working.iter().map(|&(segment, _)| segment).collect();
        report(node, &Status { segments, failed: Vec::new() })
    }

    fn warn_of_unfinished(&self) {
        let (incomplete, unfinished) = (self.assembler.incomplete().len(), self.working.len());
        if incomplete + unfinished > 0 {
            tracing::warn!("input ended with {incomplete} windows incomplete and {unfinished} unfinished");
        }
    }
}

fn report(node: &mut DoraNode, status: &Status) -> Result<()> {
    send(node, STATUS, MetadataParameters::new(), encode_text(&to_json(status)?))
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
            image_size: None,
            covered: None,
            times: Default::default(),
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
