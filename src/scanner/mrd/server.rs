//! The server: one connection for each scan, each a task of its own with another task that writes its answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::access::MrdListen;
use super::fault::Fault;
use super::kind::MessageKind;
use super::link::{Connection, MaskLink, Outgoing};
use super::reader::{ReadLimits, Reader};
use super::returned::encode_text;
use super::session::{Session, wait_for_masks};
use crate::scanner::intake::Intake;

/// Pause after the system refuses to accept a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client that has violated the protocol may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Called with the id of a series when its client has sent everything.
type Ended = Arc<dyn Fn(String) + Send + Sync>;

/// The server.
pub struct MrdServer {
    listener: TcpListener,
    listen: Arc<MrdListen>,
    intake: Arc<Intake>,
    ended: Ended,
    link: MaskLink,
    places: Arc<Semaphore>,
}

impl MrdServer {
    /// Listens at the address. `ended` gets the id of each series whose client has sent CLOSE, after the last image of the
    /// series was told to the intake's listener.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub async fn bind(
        listen: MrdListen,
        intake: Arc<Intake>,
        ended: impl Fn(String) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(listen.address).await?,
            link: MaskLink::new(listen.returns),
            places: Arc::new(Semaphore::new(listen.connections)),
            listen: Arc::new(listen),
            intake,
            ended: Arc::new(ended),
        })
    }

    /// The address, with the port that the system has chosen if it was 0.
    ///
    /// # Errors
    /// An error of the system.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The way of masks to the clients.
    pub fn link(&self) -> MaskLink {
        self.link.clone()
    }

    /// Accepts connections for ever.
    pub async fn run(self) {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if !self.listen.allows(address.ip()) {
                tracing::warn!("{address}: not among the allowed MRD clients");
                continue;
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                tracing::warn!(
                    "{address}: turned away: {} MRD connections are open",
                    self.listen.connections
                );
                continue;
            };
            let serving = Serving {
                peer: format!("MRD {address}"),
                listen: self.listen.clone(),
                intake: self.intake.clone(),
                ended: self.ended.clone(),
                link: self.link.clone(),
            };
            tokio::spawn(async move {
                serving.serve(stream).await;
                drop(place);
            });
        }
    }
}

/// What the tasks of a connection need.
struct Serving {
    peer: String,
    listen: Arc<MrdListen>,
    intake: Arc<Intake>,
    ended: Ended,
    link: MaskLink,
}

type Writing = JoinHandle<Result<(), Fault>>;

impl Serving {
    async fn serve(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true); // only a matter of speed
        let limits = self.intake.spool().limits();
        let stall = limits.association_idle;
        let reads = ReadLimits {
            pixel_bytes: limits.instance_bytes,
            pause: self.listen.pause,
            stall,
            ..ReadLimits::default()
        };
        let (from, to) = stream.into_split();
        let (connection, outgoing) = Connection::new();
        let _registered = self.link.add(connection.clone());
        let writer = connection.clone();
        let mut writing: Writing = tokio::spawn(async move { writer.write(to, outgoing, stall).await });
        let outcome = self.exchange(Reader::new(from, reads), &connection, &mut writing).await;
        let fault = match outcome {
            Ok(()) => self.close(&connection, &mut writing, Duration::MAX).await,
            Err(fault) => {
                if let Fault::Broken(_) | Fault::Idle | Fault::NoSpace(_) = &fault {
                    connection.push(Outgoing::Message(encode_text(&format!("ERROR    {fault}"))));
                    let _ = self.close(&connection, &mut writing, LAST_WORDS).await; // it may be gone
                }
                Err(fault)
            }
        };
        writing.abort();
        match fault {
            Ok(()) | Err(Fault::Left) => {}
            Err(fault) => tracing::warn!("{}: ended: {fault}", self.peer),
        }
    }

    /// Takes what the client sends, and sends it its masks.
    async fn exchange(
        &self,
        reader: Reader<tokio::net::tcp::OwnedReadHalf>,
        connection: &Arc<Connection>,
        writing: &mut Writing,
    ) -> Result<(), Fault> {
        let mut stopped = self.link.stopped();
        let mut session = Session::new(
            reader,
            connection.clone(),
            self.intake.clone(),
            self.listen.clone(),
            self.peer.clone(),
        );
        let received = tokio::select! {
            received = session.receive() => received,
            written = &mut *writing => return Err(fault_of(written)),
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let (stored, refused) = (session.stored, session.refused);
        drop(session); // nobody sends its series any more
        if let Err(fault) = received {
            if stored > 0 || refused > 0 {
                tracing::info!("{}: {stored} images were received, {refused} refused", self.peer);
            }
            if stored > 0 && matches!(fault, Fault::Left) {
                tracing::info!("{}: {fault}", self.peer);
            }
            return Err(fault);
        }
        tracing::info!("{}: sent {stored} images, {refused} were refused", self.peer);
        connection.answers().series_ids().into_iter().for_each(|series_id| (self.ended)(series_id));
        let lines = tokio::select! {
            lines = wait_for_masks(connection, &self.listen) => lines?,
            written = &mut *writing => return Err(fault_of(written)),
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        for line in lines {
            tracing::warn!("{}: {line}", self.peer);
            connection.push(Outgoing::Message(encode_text(&format!("ERROR    {line}"))));
        }
        Ok(())
    }

    /// Sends CLOSE after what is in the queue. A client that does not read it is cut off by the writing task.
    async fn close(
        &self,
        connection: &Connection,
        writing: &mut Writing,
        most: Duration,
    ) -> Result<(), Fault> {
        connection.push(Outgoing::Message(MessageKind::Close.id().to_le_bytes().to_vec()));
        connection.end();
        match timeout(most, writing).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) | Err(_) => Err(Fault::Unread),
        }
    }
}

/// Why the writing task has ended before it should.
fn fault_of(written: Result<Result<(), Fault>, tokio::task::JoinError>) -> Fault {
    match written {
        Ok(Err(Fault::Unread)) => Fault::Unread,
        _ => Fault::Lost,
    }
}
