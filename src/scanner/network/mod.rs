//! A DICOM receiver: C-STORE and C-ECHO as service class provider (PS3.4 Annexes A and B, PS3.7, PS3.8).
//!
//! Every association is a task of its own. Whatever a peer does, it gets the standard's status or an abort, and others
//! do not notice.

mod access;
mod classes;
mod command;
mod fault;
mod message;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dicom_ul::association::Association;
use dicom_ul::association::read_pdu_from_wire_async;
use dicom_ul::association::server::{DefaultNegotiation, ServerAssociationOptions};
use dicom_ul::pdu::{
    AssociationRJ, AssociationRJResult, AssociationRJServiceProviderPresentationReason, AssociationRJSource,
    Pdu,
};
use dicom_ul::write_pdu;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::intake::Intake;
use crate::dicom::TRANSFER_SYNTAXES;
use access::{Access, shown};
pub use access::{Listen, parse_titles};
use fault::Fault;
use session::Session;

/// How long a peer may take to request its association (the standard's ARTIM timer).
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Pause after the system refuses to accept a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Peers that are turned away at the same time; further ones are cut off.
const MOST_REJECTED: usize = 64;

type Options = ServerAssociationOptions<'static, Access, DefaultNegotiation>;

/// The receiver.
pub struct Receiver {
    listener: TcpListener,
    options: Options,
    intake: Arc<Intake>,
    places: Arc<Semaphore>,
    rejections: Arc<Semaphore>,
}

impl Receiver {
    /// Listens at the address.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub async fn bind(listen: &Listen, intake: Arc<Intake>) -> std::io::Result<Self> {
        let limits = intake.spool().limits().clone();
        let access = Access { allowed: listen.allowed_titles.clone() };
        let mut options = ServerAssociationOptions::new()
            .ae_access_control(access)
            .ae_title(listen.title.clone())
            .strict(true)
            .max_pdu_length(limits.pdu_bytes)
            .read_timeout(limits.association_idle)
            .write_timeout(limits.association_idle)
            .with_abstract_syntax(classes::VERIFICATION);
        for class in classes::STORAGE {
            options = options.with_abstract_syntax(class);
        }
        for syntax in TRANSFER_SYNTAXES {
            options = options.with_transfer_syntax(syntax);
        }
        Ok(Self {
            listener: TcpListener::bind(listen.address).await?,
            options,
            places: Arc::new(Semaphore::new(limits.associations)),
            rejections: Arc::new(Semaphore::new(MOST_REJECTED)),
            intake,
        })
    }

    /// The address, with the port that the system has chosen if it was 0.
    ///
    /// # Errors
    /// An error of the system.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts associations for ever.
    pub async fn run(self) {
        let options = Arc::new(self.options);
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                let (options, intake) = (options.clone(), self.intake.clone());
                tokio::spawn(async move {
                    associate(stream, address, &options, intake).await;
                    drop(place);
                });
            } else if let Ok(place) = self.rejections.clone().try_acquire_owned() {
                let most = self.intake.spool().limits().pdu_bytes;
                tokio::spawn(async move {
                    let _ = timeout(REQUEST_TIME, reject(stream, most)).await;
                    tracing::warn!("{address}: rejected: too many associations");
                    drop(place);
                });
            }
        }
    }
}

async fn associate(stream: TcpStream, address: SocketAddr, options: &Options, intake: Arc<Intake>) {
    let _ = stream.set_nodelay(true); // only a matter of speed
    let association = match timeout(REQUEST_TIME, options.establish_async(stream)).await {
        Ok(Ok(association)) => association,
        Ok(Err(error)) => return tracing::warn!("{address}: {}", Fault::from(error)),
        Err(_) => return tracing::warn!("{address}: connected, but requested no association in time"),
    };
    let peer = format!("{} ({address})", shown(association.peer_ae_title()));
    let mut session = Session::new(association, intake, peer.clone());
    let outcome = session.serve().await;
    let stored = session.stored;
    match outcome {
        Ok(()) => tracing::debug!("{peer}: released after {stored} instances"),
        Err(fault) => tracing::warn!("{peer}: ended after {stored} instances: {fault}"),
    }
}

/// Answers a request with a transient rejection (PS3.8 9.3.4).
async fn reject(mut stream: TcpStream, most: u32) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    let _ = read_pdu_from_wire_async(&mut stream, &mut buffer, most, true).await; // whatever it is
    let reason = AssociationRJServiceProviderPresentationReason::LocalLimitExceeded;
    let rejection = AssociationRJ {
        result: AssociationRJResult::Transient,
        source: AssociationRJSource::ServiceProviderPresentation(reason),
    };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRJ(rejection)).map_err(std::io::Error::other)?;
    stream.write_all(&bytes).await
}
