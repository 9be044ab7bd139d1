//! From the node's event loop to the connections: each mask goes to the client whose image it belongs to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::access::Returns;
use super::answers::{Answer, Answers, State};
use super::fault::Fault;
use crate::message::live::Mask;

/// Most bytes that wait for a client.
const MOST_QUEUED: usize = 512 << 20;
/// Bytes that are written at once; each such part must be taken in time.
const CHUNK_BYTES: usize = 1 << 18;

/// Something for the client.
#[derive(Debug)]
pub(super) enum Outgoing {
    Answer(Answer),
    Message(Vec<u8>),
}

impl Outgoing {
    fn bytes(&self) -> usize {
        match self {
            Self::Answer(answer) => answer.bytes(),
            Self::Message(bytes) => bytes.len(),
        }
    }
}

/// What the event loop and the tasks of a connection share.
pub(super) struct Connection {
    answers: Mutex<Answers>,
    /// `None` once nothing more is sent.
    outbox: Mutex<Option<UnboundedSender<Outgoing>>>,
    queued: AtomicUsize,
    is_full: AtomicBool,
    /// Something has changed for the task that waits for masks.
    pub changed: Notify,
}

impl Connection {
    pub fn new() -> (Arc<Self>, UnboundedReceiver<Outgoing>) {
        let (outbox, outgoing) = unbounded_channel();
        let connection = Self {
            answers: Mutex::default(),
            outbox: Mutex::new(Some(outbox)),
            queued: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            changed: Notify::new(),
        };
        (Arc::new(connection), outgoing)
    }

    pub fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the queue. A queue that is full stays so, and its connection ends.
    pub fn push(&self, outgoing: Outgoing) {
        let bytes = outgoing.bytes();
        if self.queued.fetch_add(bytes, Ordering::SeqCst) + bytes > MOST_QUEUED {
            self.is_full.store(true, Ordering::SeqCst);
        } else if let Some(outbox) = &*self.outbox.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = outbox.send(outgoing); // the client has left
        }
        self.changed.notify_one();
    }

    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::SeqCst)
    }

    /// Nothing more is sent.
    pub fn end(&self) {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Writes what is in the queue until it ends.
    ///
    /// # Errors
    /// [`Fault::Unread`], [`Fault::Lost`].
    pub async fn write(
        &self,
        mut to: impl AsyncWrite + Unpin,
        mut outgoing: UnboundedReceiver<Outgoing>,
        stall: Duration,
    ) -> Result<(), Fault> {
        while let Some(next) = outgoing.recv().await {
            let bytes = next.bytes();
            let message = match next {
                Outgoing::Answer(answer) => answer.encode(),
                Outgoing::Message(message) => message,
            };
            for chunk in message.chunks(CHUNK_BYTES) {
                timeout(stall, to.write_all(chunk)).await.map_err(|_| Fault::Unread)??;
            }
            self.queued.fetch_sub(bytes, Ordering::SeqCst);
        }
        to.shutdown().await?;
        Ok(())
    }
}

/// The connections, as the event loop sees them.
#[derive(Clone)]
pub struct MaskLink(Arc<Shared>);

struct Shared {
    returns: Returns,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
}

impl MaskLink {
    pub(super) fn new(returns: Returns) -> Self {
        Self(Arc::new(Shared {
            returns,
            connections: Mutex::default(),
            next: AtomicUsize::new(0),
            stop: watch::Sender::new(false),
        }))
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection until the value that is returned is dropped.
    pub(super) fn add(&self, connection: Arc<Connection>) -> Registered {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) as u64;
        self.connections().insert(id, connection);
        Registered { link: self.clone(), id }
    }

    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.0.stop.subscribe()
    }

    fn of_series(&self, series_id: &str) -> Option<Arc<Connection>> {
        self.connections().values().find(|connection| connection.answers().has(series_id)).cloned()
    }

    /// Whether a mask would be sent, so that its pixels are needed.
    pub fn wants(&self, mask: &Mask) -> bool {
        let Returns { masks, provisional, .. } = self.0.returns;
        if mask.provisional { provisional } else { masks }
    }

    /// A mask of the writer: class of each pixel, row by row.
    pub fn on_mask(&self, mask: &Mask, classes: Vec<u8>) {
        let Some(connection) = self.of_series(&mask.series_id) else { return };
        let answer = connection.answers().on_mask(mask, classes);
        if let Some(answer) = answer {
            connection.push(Outgoing::Answer(answer));
        }
    }

    /// Everything about a series is written, or it has failed.
    pub fn on_done(&self, series_id: &str, error: Option<String>) {
        if let Some(connection) = self.of_series(series_id) {
            connection.answers().on_done(series_id, error, Instant::now());
            connection.changed.notify_one();
        }
    }

    /// Whether a client still awaits masks.
    pub fn is_waiting(&self) -> bool {
        let now = Instant::now();
        self.0.returns.masks
            && self.connections().values().any(|connection| connection.answers().state(now) == State::Waiting)
    }

    /// Ends all connections, once what is in their queues is written.
    pub async fn stop(&self) {
        self.0.stop.send_replace(true);
        while !self.connections().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A connection in the list of all.
pub(super) struct Registered {
    link: MaskLink,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.link.connections().remove(&self.id);
    }
}
