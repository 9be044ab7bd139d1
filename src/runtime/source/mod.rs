//! The scanner source: what its receivers and its folder bring (`scanner`) goes to the loader image by image, until the
//! loader has acknowledged it. Masks go back to the clients that stream by MRD.

mod masks;
mod settings;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float32Array};
use dora_node_api::{DoraNode, EventStream, MetadataParameters};
use eyre::{Result, WrapErr, bail, eyre};
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::events::{Flow, Happening, send, serve};
use super::join::{Leave, join};
use crate::message::live::{FrameAck, FrameAckMessage};
use crate::message::{encode_text, from_json, text, to_json};
use crate::scanner::mrd::MrdServer;
use crate::scanner::network::Receiver;
use crate::scanner::{Decoded, Decoder, Desk, Intake, Outgoing, Request, Spool, Watch};
use masks::{MASKS, MaskReturn};
pub use settings::SourceSettings;

/// Input of the acknowledgements.
const FRAME_ACK: &str = "frame_ack";
const FRAMES: &str = "frames";
const SERIES: &str = "series";
/// Threads for the associations; each may wait for the disk.
const NETWORK_THREADS: usize = 4;
/// Time between two looks at the watched folder.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What other threads tell the event loop.
enum Told {
    /// A series has a new image.
    Stored(String),
    /// The client of a series has sent everything.
    Ended(String),
    Decoded(Box<Decoded>),
}

/// The source's task, checked before it joins the dataflow. Peers can connect already.
pub struct Source {
    network: Runtime,
    receiver: Option<Receiver>,
    mrd: Option<MrdServer>,
    watch: Option<Watch>,
    desk: Desk,
    to_io: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
}

impl Source {
    /// Opens the spool and listens.
    ///
    /// # Errors
    /// A spool, an address or a folder that cannot be used.
    pub fn new(settings: &SourceSettings) -> Result<Self> {
        let spool = Spool::open(&settings.spool, settings.limits.clone())
            .wrap_err_with(|| format!("spool {}", settings.spool.display()))?;
        let (to_io, told) = unbounded_channel();
        let to_loop = to_io.clone();
        let intake = Arc::new(Intake::new(spool, move |series_id| {
            let _ = to_loop.send(Told::Stored(series_id)); // at the end nobody listens, and the spool has it
        }));
        let network = runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("network")
            .enable_all()
            .build()?;
        let receiver = settings.listen.as_ref().map(|listen| {
            let receiver = network.block_on(Receiver::bind(listen, intake.clone()));
            let receiver = receiver.wrap_err_with(|| format!("SPSAM_LISTEN: {}", listen.address))?;
            tracing::info!("{} listens on {}", listen.title, receiver.address()?);
            eyre::Ok(receiver)
        });
        let mrd = settings.mrd.as_ref().map(|listen| {
            let to_loop = to_io.clone();
            let ended = move |series_id| drop(to_loop.send(Told::Ended(series_id))); // as above
            let server = network.block_on(MrdServer::bind(listen.clone(), intake.clone(), ended));
            let server = server.wrap_err_with(|| format!("SPSAM_MRD: {}", listen.address))?;
            tracing::info!("the MRD server listens on {}", server.address()?);
            eyre::Ok(server)
        });
        let watch = settings.watch.as_ref().map(|folder| {
            Watch::new(folder, intake.clone()).wrap_err_with(|| format!("SPSAM_WATCH: {}", folder.display()))
        });
        Ok(Self {
            receiver: receiver.transpose()?,
            mrd: mrd.transpose()?,
            watch: watch.transpose()?,
            desk: Desk::new(intake, settings.series_idle, Instant::now()),
            network,
            to_io,
            told,
        })
    }

    /// Joins the dataflow and runs until it is stopped, or until the loader has ended.
    ///
    /// # Errors
    /// A loader that died; threads that cannot be started.
    pub fn run(self) -> Result<()> {
        let (mut node, mut events) = join()?;
        self.serve(&mut node, &mut events)
    }

    fn serve(self, node: &mut DoraNode, events: &mut EventStream) -> Result<()> {
        let Self { network, receiver, mrd, watch, mut desk, to_io, told } = self;
        let mut masks = MaskReturn::new(mrd.as_ref().map(MrdServer::link));
        if let Some(receiver) = receiver {
            network.spawn(receiver.run());
        }
        if let Some(mrd) = mrd {
            network.spawn(mrd.run());
        }
        if let Some(watch) = watch {
            look_at(watch)?;
        }
        let decoder = start_decoder(to_io)?;
        let outcome = serve(node, events, told, |node, happening| {
            let now = Instant::now();
            match happening {
                Happening::Input { id, array, .. } if id == FRAME_ACK => {
                    on_ack(&mut desk, &masks, &array, now);
                }
                Happening::Input { id, parameters, array } if id == MASKS => {
                    masks.on_mask(&parameters, &array);
                }
                Happening::Computed(Told::Stored(series_id)) => desk.on_stored(&series_id, now),
                Happening::Computed(Told::Ended(series_id)) => desk.on_ended(&series_id, now),
                Happening::Computed(Told::Decoded(decoded)) => desk.on_decoded(*decoded, now),
                Happening::Tick => desk.on_tick(now),
                Happening::ComputeEnded => bail!("the receiving threads have ended"),
                Happening::NodeFailed { node } => bail!(Leave::EndedEarly(format!("node {node} died"))),
                Happening::InputClosed(id) if id == FRAME_ACK => masks.end(now),
                Happening::Input { .. } | Happening::InputClosed(_) => {}
                Happening::InputsClosed => masks.end(now), // it overtakes masks
                Happening::Stopped => return Ok(Flow::Finish),
            }
            if let Some(is_over) = masks.is_over(now) {
                return Ok(if is_over { Flow::Finish } else { Flow::Continue });
            }
            proceed(node, &mut desk, &decoder)?;
            Ok(Flow::Continue)
        });
        masks.finish(&network);
        network.shutdown_background(); // what is not acknowledged is sent to us again
        outcome
    }
}

fn on_ack(desk: &mut Desk, masks: &MaskReturn, array: &ArrayRef, now: Instant) {
    let message: FrameAckMessage = match text(array).and_then(from_json) {
        Ok(message) => message,
        Err(error) => return tracing::error!("input `{FRAME_ACK}`: {error}"),
    };
    let done = match &message.ack {
        FrameAck::Done { series_id, error, .. } => Some((series_id.clone(), error.clone())),
        _ => None,
    };
    desk.on_ack(message, now);
    if let Some((series_id, error)) = done.filter(|(series_id, _)| !desk.has(series_id)) {
        masks.on_done(&series_id, error);
    }
}

/// Sends what is to be sent, and has images decoded.
fn proceed(node: &mut DoraNode, desk: &mut Desk, decoder: &mpsc::Sender<Request>) -> Result<()> {
    while let Some(outgoing) = desk.take_outgoing() {
        match outgoing {
            Outgoing::Series(message) => {
                send(node, SERIES, MetadataParameters::new(), encode_text(&to_json(&message)?))?;
            }
            Outgoing::Frame(frame, pixels) => {
                send(node, FRAMES, frame.to_parameters(), Arc::new(Float32Array::from(pixels)))?;
            }
        }
    }
    while let Some(request) = desk.next_request() {
        decoder.send(request).map_err(|_| eyre!("the decoding thread has ended"))?;
    }
    Ok(())
}

fn start_decoder(to_io: UnboundedSender<Told>) -> Result<mpsc::Sender<Request>> {
    let (to_decoder, requests) = mpsc::channel::<Request>();
    thread::Builder::new().name("decoder".into()).spawn(move || {
        let mut decoder = Decoder::default();
        for request in requests {
            if to_io.send(Told::Decoded(Box::new(decoder.decode(request)))).is_err() {
                return;
            }
        }
    })?;
    Ok(to_decoder)
}

fn look_at(mut watch: Watch) -> Result<()> {
    thread::Builder::new().name("folder".into()).spawn(move || {
        loop {
            // A panic is logged where it happens; the next look begins anew.
            let _ = catch_unwind(AssertUnwindSafe(|| watch.look()));
            thread::sleep(LOOK_EVERY);
        }
    })?;
    Ok(())
}
