//! The writer: assembles windows into label maps on the original grid, passes complete ones to the exporter, and
//! acknowledges to the loader what has arrived and what is written.
//!
//! Its memory is bounded: the loader keeps at most `SPSAM_WINDOW` windows in flight for each replica and, while one of
//! them is late, gets at most four times as many ahead of it, in at most three cases. For each case the writer holds the
//! label map and the slices of logits that a later window still covers. At most `MAX_EARLY` windows of unknown cases wait.

mod delivery;
mod desk;
pub(super) mod live;
mod overlay;

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::thread;

use arrow::array::{ArrayRef, UInt8Array};
use dora_node_api::{DoraNode, EventStream, MetadataParameters};
use eyre::{Result, WrapErr, bail, eyre};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use uuid::Uuid;

use super::assembly::Assembler;
use super::events::{Flow, Happening, send, serve_dropping};
use super::export::{Export, Exporter, Told};
use super::input::{Input, InputKind};
use super::join::{Leave, join};
use super::live::LiveLoader;
use super::settings::{Settings, variable};
use crate::bundle::Bundle;
use crate::message::control::{Ack, AckMessage, from_json, to_json};
use crate::message::{SliceHeader, encode_text, text};
use crate::report::{Results, Segmentations};
use crate::scanner::outbox::Courier;
use desk::{Desk, Job};
use live::ImageMask;
use overlay::{FRAMES, OverlayOutput};

const LOGITS: Input = Input { name: "logits", kind: InputKind::Floats };
const CASES: &str = "cases";
/// Output of the masks of live series.
const MASKS: &str = "masks";

/// The writer's task, checked before it joins the dataflow.
pub struct Writer {
    results: Results,
    /// Sends segmentations to a receiver.
    courier: Option<Courier>,
    /// Whether the dataflow has no end, so that it may be stopped at any time.
    is_live: bool,
}

impl Writer {
    /// Makes the output folder.
    ///
    /// # Errors
    /// An output folder or outbox that cannot be made or written to.
    pub fn new(settings: &Settings, bundle: &Bundle) -> Result<Self> {
        crate::volume::mute_warnings(); // the loader reads the same files first
        let asked = |name| variable(name).unwrap_or_else(|| "auto".into());
        let device = format!("{}, {}", asked("SPSAM_DEVICE"), asked("SPSAM_PRECISION"));
        let results = Results::new(&settings.output, settings.part, bundle, device, settings.ignore.clone())?;
        let is_prompted = variable("SPSAM_PROMPT_SOURCE").is_some_and(|source| source == "labels");
        let delivery = settings.send_to.as_ref().map(|to| delivery::start(settings, to)).transpose()?;
        let (outbox, courier) = delivery.unzip();
        let segmentations =
            Segmentations::new(bundle, is_prompted, settings.spool.clone()).with_outbox(outbox);
        let results = results.with_segmentations(settings.segmentations.then_some(segmentations));
        Ok(Self { results, courier, is_live: LiveLoader::is_asked_for()? })
    }

    /// Joins the dataflow and runs until everything is written.
    ///
    /// # Errors
    /// Input that ends without the end-of-input message; a message that violates the contract.
    pub fn run(self) -> Result<()> {
        let (mut node, mut events) = join()?;
        self.serve(&mut node, &mut events)
    }

    fn serve(self, node: &mut DoraNode, events: &mut EventStream) -> Result<()> {
        let (to_io, told) = unbounded_channel();
        let (to_desk, jobs) = mpsc::channel();
        let sends_masks = node.node_config().outputs.iter().any(|output| output.as_ref() as &str == MASKS);
        let mut front = Front::new(to_desk, sends_masks, OverlayOutput::if_wanted(node)?);
        front.acknowledge(node, Ack::Hello)?;
        start_threads(self.results, jobs, to_io)?;
        let mut is_stopped = false;
        let outcome = serve_dropping(node, events, told, report_lost, |node, happening| {
            is_stopped = matches!(happening, Happening::Stopped);
            match happening {
                Happening::Input { id, array, .. } if id == CASES => front.on_case(&array)?,
                Happening::Input { id, parameters, array } if LOGITS.takes(&id) => {
                    front.on_logits(&parameters, &array)?;
                }
                Happening::Input { id, parameters, array } if id == FRAMES => {
                    if let Some(overlay) = &mut front.overlay {
                        overlay.on_frame(&parameters, &array);
                    }
                }
                Happening::Computed(told) => front.on_told(node, told)?,
                Happening::Tick => front.on_tick(node)?,
                Happening::ComputeEnded => bail!("the writing thread has ended"),
                Happening::InputsClosed | Happening::Stopped if self.is_live => return Ok(Flow::Finish),
                Happening::InputsClosed => {
                    front.outcome()?;
                    return Ok(Flow::Finish);
                }
                Happening::Stopped => {
                    bail!(Leave::EndedEarly("stopped before the end: results are incomplete".into()))
                }
                Happening::Input { .. } | Happening::InputClosed(_) | Happening::NodeFailed { .. } => {}
            }
            Ok(Flow::Continue)
        });
        if let Some(courier) = self.courier {
            delivery::finish(courier, is_stopped);
        }
        outcome
    }
}

/// Images for pictures may be dropped, nothing else.
fn report_lost(input: &str, count: u64) {
    if input != FRAMES {
        tracing::error!("{count} messages lost on input `{input}`");
    }
}

/// Starts the thread that blends windows, and the one that writes files.
fn start_threads(results: Results, jobs: mpsc::Receiver<Job>, to_io: UnboundedSender<Told>) -> Result<()> {
    let (to_export, exports) = mpsc::channel::<Export>();
    let mut exporter = Exporter::new(results, to_io.clone());
    thread::Builder::new().name("exporter".into()).spawn(move || {
        for export in exports {
            exporter.take(export);
        }
    })?;
    let mut desk = Desk::new(to_export, to_io);
    thread::Builder::new().name("writer".into()).spawn(move || {
        for job in jobs {
            desk.take(job);
        }
    })?;
    Ok(())
}

/// The state of the event loop.
struct Front {
    writer_id: String,
    to_desk: mpsc::Sender<Job>,
    assembler: Assembler,
    /// Segments of the windows that are waiting or being blended.
    waiting: BTreeSet<i64>,
    /// Whether the dataflow declares the output for masks.
    sends_masks: bool,
    /// Sends pictures, if somebody wants them.
    overlay: Option<OverlayOutput>,
    /// Whether everything is written.
    ended: bool,
    /// Why the end has failed.
    end_error: Option<String>,
}

impl Front {
    fn new(to_desk: mpsc::Sender<Job>, sends_masks: bool, overlay: Option<OverlayOutput>) -> Self {
        Self {
            sends_masks,
            overlay,
            writer_id: Uuid::new_v4().to_string(),
            to_desk,
            assembler: Assembler::new(vec![LOGITS]),
            waiting: BTreeSet::new(),
            ended: false,
            end_error: None,
        }
    }

    fn acknowledge(&self, node: &mut DoraNode, ack: Ack) -> Result<()> {
        let json = to_json(&AckMessage { writer_id: self.writer_id.clone(), ack })?;
        send(node, "ack", MetadataParameters::new(), encode_text(&json))
    }

    fn give(&self, job: Job) -> Result<()> {
        self.to_desk.send(job).map_err(|_| eyre!("the writing thread has ended"))
    }

    fn on_case(&self, array: &ArrayRef) -> Result<()> {
        self.give(Job::Case(from_json(text(array)?).wrap_err("input `cases`")?))
    }

    fn on_logits(&mut self, parameters: &MetadataParameters, array: &ArrayRef) -> Result<()> {
        // A message that violates the contract is dropped: the loader misses its window, and in the end names the
        // case.
        let window = SliceHeader::parse(parameters)
            .and_then(|header| self.assembler.add(&LOGITS, header, array))
            .unwrap_or_else(|error| {
                tracing::error!("input `logits`: {error}");
                None
            });
        let Some(window) = window else { return Ok(()) };
        self.waiting.insert(window.header.segment_id);
        self.give(Job::Window(Box::new(window)))
    }

    fn on_told(&mut self, node: &mut DoraNode, told: Told) -> Result<()> {
        let ack = match told {
            Told::Ack(ack) => ack,
            Told::Masks(masks) => {
                if let Some(overlay) = &self.overlay {
                    overlay.on_masks(node, &masks)?;
                }
                for ImageMask { mask, pixels } in masks.into_iter().filter(|_| self.sends_masks) {
                    send(node, MASKS, mask.to_parameters(), Arc::new(UInt8Array::from(pixels)))?;
                }
                return Ok(());
            }
            Told::SetAside(segment) => {
                self.waiting.remove(&segment);
                return Ok(());
            }
        };
        match &ack {
            Ack::Segment(segment) => {
                self.waiting.remove(segment);
            }
            Ack::End => self.ended = true,
            Ack::EndFailed(error) => self.end_error = Some(error.clone()),
            _ => {}
        }
        self.acknowledge(node, ack)
    }

    fn on_tick(&self, node: &mut DoraNode) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.acknowledge(node, Ack::Working(self.waiting.iter().copied().collect()))
    }

    /// The outcome once the inputs have closed.
    fn outcome(&self) -> Result<()> {
        match &self.end_error {
            _ if self.ended => Ok(()),
            Some(error) => bail!("{error}"),
            None => {
                let why = "the input closed before the end-of-input message: results are incomplete";
                bail!(Leave::EndedEarly(why.into()))
            }
        }
    }
}
