//! The node that shows live segmentation in a browser (`view`). Nothing waits for it: its inputs drop what it does not
//! take, and if it cannot show a page, the run goes on without one.

mod settings;

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Float32Type, UInt8Type};
use dora_node_api::MetadataParameters;
use eyre::{Result, eyre};
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::unbounded_channel;

use super::events::{Flow, Happening, serve_dropping};
use super::join::join;
use super::notice::{Notice, tell};
use crate::message::live::{Frame, Mask};
use crate::message::{from_json, text};
use crate::view::{Hub, answer, url};
pub use settings::{PageAddress, ViewSettings};

const FRAMES: &str = "frames";
const SERIES: &str = "series";
const MASKS: &str = "masks";
/// Threads for the connections of pages.
const NETWORK_THREADS: usize = 2;
/// How long pages have to hear that the run has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// The viewer's task. Pages can connect already.
pub struct View {
    page: Option<(Arc<Hub>, Runtime)>,
}

impl View {
    /// Listens. An address that cannot be used is a warning.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn new(settings: &ViewSettings) -> Result<Self> {
        let Some(page) = &settings.page else { return Ok(Self { page: None }) };
        let network = runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("page")
            .enable_all()
            .build()?;
        let hub = Arc::new(Hub::new(settings.classes.clone()));
        let listening = {
            let _context = network.enter();
            listen(page).and_then(|listener| {
                let address = listener.local_addr()?;
                let (host, hub) = (page.host.clone(), hub.clone());
                network.spawn(async move {
                    if let Err(error) = answer(listener, &host, hub).await {
                        tracing::warn!("the page has ended: {error}");
                    }
                });
                Ok(address)
            })
        };
        match listening {
            Ok(address) => {
                let said = format!("the page is at {}", url(&page.host, address));
                tracing::info!("{said}");
                tell(&Notice::Said(said));
                if !address.ip().is_loopback() {
                    tracing::warn!("SPSAM_VIEW: everybody who can reach {address} sees the images");
                }
                Ok(Self { page: Some((hub, network)) })
            }
            Err(error) => {
                tracing::warn!("SPSAM_VIEW: {}: {error}: there is no page", page.address);
                Ok(Self { page: None })
            }
        }
    }

    /// Joins the dataflow and runs until it ends; without a page it leaves at once.
    ///
    /// # Errors
    /// A dataflow that cannot be joined.
    pub fn run(self) -> Result<()> {
        let (mut node, mut events) = join()?;
        let Some((hub, network)) = self.page else { return Ok(()) };
        let (_to_io, computed) = unbounded_channel::<()>();
        let lost = |_: &str, count| hub.on_lost(count as usize);
        let outcome = serve_dropping(&mut node, &mut events, computed, lost, |_, happening| {
            match happening {
                Happening::Input { id, parameters, array } => {
                    if let Err(error) = on_input(&hub, &id, &parameters, &array) {
                        tracing::error!("input `{id}`: {error}");
                    }
                }
                Happening::InputsClosed | Happening::Stopped => return Ok(Flow::Finish),
                _ => {}
            }
            Ok(Flow::Continue)
        });
        hub.end();
        let until = Instant::now() + FAREWELL;
        while hub.viewers.count() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        network.shutdown_background();
        outcome
    }
}

fn listen(page: &PageAddress) -> std::io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::bind(page.address)?; // may be taken again at once after a restart
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn on_input(hub: &Hub, id: &str, parameters: &MetadataParameters, array: &ArrayRef) -> Result<()> {
    let wrong_type = || eyre!("the array has type {}", array.data_type());
    match id {
        FRAMES => {
            let pixels = array.as_primitive_opt::<Float32Type>().ok_or_else(wrong_type)?;
            Ok(hub.on_frame(Frame::parse(parameters)?, pixels.values())?)
        }
        MASKS => {
            let pixels = array.as_primitive_opt::<UInt8Type>().ok_or_else(wrong_type)?;
            Ok(hub.on_mask(Mask::parse(parameters)?, pixels.values().to_vec())?)
        }
        SERIES => {
            hub.on_series(from_json(text(array)?)?);
            Ok(())
        }
        _ => Ok(()),
    }
}
