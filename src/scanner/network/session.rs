//! An association with a peer: its messages, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dicom_object::FileMetaTableBuilder;
use dicom_ul::association::AsyncServerAssociation;
use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, PDataValue, PDataValueType, Pdu,
    PresentationContextNegotiated, PresentationContextResultReason,
};
use tokio::net::TcpStream;
use tokio::task::{block_in_place, spawn_blocking};

use super::command::{C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command};
use super::fault::Fault;
use super::message::{Assembler, Part};
use crate::scanner::intake::{Intake, Sending};
use crate::scanner::{Claim, Incoming, Refusal, Status};

/// A message must come at least this fast, bytes per second, once it has taken as long as a peer may be idle.
const LEAST_RATE: u64 = 1 << 10;

/// An association.
pub(super) struct Session {
    association: AsyncServerAssociation<TcpStream>,
    intake: Arc<Intake>,
    sending: Sending,
    assembler: Assembler,
    /// The message that is being received.
    message: Option<Message>,
    began: Instant,
    bytes: u64,
    idle: Duration,
    /// Name of the peer in the log.
    peer: String,
    /// Instances that are stored.
    pub stored: usize,
}

/// A message with a data set, while it comes.
struct Message {
    context: u8,
    command: Command,
    /// The file for the data set of a C-STORE, or why it is refused or not needed. The rest of it is then skipped.
    file: Result<Incoming, Refusal>,
    skipped: u64,
}

impl Session {
    pub fn new(association: AsyncServerAssociation<TcpStream>, intake: Arc<Intake>, peer: String) -> Self {
        Self {
            association,
            sending: Sending::new(intake.clone()),
            assembler: Assembler::default(),
            message: None,
            began: Instant::now(),
            bytes: 0,
            idle: intake.spool().limits().association_idle,
            intake,
            peer,
            stored: 0,
        }
    }

    /// Answers until the peer releases the association.
    ///
    /// # Errors
    /// How it has ended otherwise; the peer has been told.
    pub async fn serve(&mut self) -> Result<(), Fault> {
        let outcome = self.exchange().await;
        if outcome.as_ref().is_err_and(Fault::is_to_be_told) {
            let source = AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::UnexpectedPdu);
            let _ = self.association.send(&Pdu::AbortRQ { source }).await; // it may be gone
        }
        outcome
    }

    async fn exchange(&mut self) -> Result<(), Fault> {
        loop {
            match self.association.receive().await? {
                Pdu::PData { data } => {
                    for value in data {
                        self.on_value(value).await?;
                    }
                }
                Pdu::ReleaseRQ if self.assembler.is_within() => {
                    return Err("a release within a message".into());
                }
                Pdu::ReleaseRQ => {
                    self.association.send(&Pdu::ReleaseRP).await?;
                    return Ok(());
                }
                Pdu::AbortRQ { .. } => return Err(Fault::Aborted),
                Pdu::Unknown { .. } => return Err("a PDU of an unknown kind".into()),
                _ => return Err("an unexpected PDU".into()),
            }
        }
    }

    async fn on_value(&mut self, value: PDataValue) -> Result<(), Fault> {
        if !self.assembler.is_within() {
            (self.began, self.bytes) = (Instant::now(), 0);
        }
        self.bytes += value.data.len() as u64;
        let seconds = self.began.elapsed().as_secs();
        if seconds > self.idle.as_secs() && self.bytes < seconds * LEAST_RATE {
            return Err(Fault::Idle);
        }
        match self.assembler.take(value)? {
            Part::Nothing => Ok(()),
            Part::Command { context, command } => self.on_command(context, command).await,
            Part::Data { bytes, is_last } => self.on_data(bytes, is_last).await,
        }
    }

    async fn on_command(&mut self, context: u8, command: Command) -> Result<(), Fault> {
        let negotiated = self.context(context).ok_or("a presentation context that was not accepted")?;
        let file = match command.field {
            C_STORE_RQ if command.class_uid != negotiated.abstract_syntax => {
                Err(Refusal::new(Status::ClassNotSupported, "another SOP class than that of its context"))
            }
            C_STORE_RQ if command.instance_uid.is_empty() || !command.has_data => {
                Err(Refusal::new(Status::CannotUnderstand, "a C-STORE without an instance"))
            }
            C_STORE_RQ => block_in_place(|| self.begin(&command, &negotiated.transfer_syntax)),
            C_ECHO_RQ => Err(Refusal::new(Status::Success, "")),
            C_CANCEL_RQ => return Ok(()), // of an operation that has ended
            other => {
                let reason = format!("operation {other:04x}h is not offered");
                Err(Refusal::new(Status::UnrecognizedOperation, reason))
            }
        };
        let message = Message { context, command, file, skipped: 0 };
        if message.command.has_data {
            self.message = Some(message);
            return Ok(());
        }
        self.answer(message).await
    }

    /// The accepted presentation context with this id.
    fn context(&self, id: u8) -> Option<PresentationContextNegotiated> {
        let is_accepted = |context: &&PresentationContextNegotiated| {
            context.id == id && context.reason == PresentationContextResultReason::Acceptance
        };
        self.association.presentation_contexts().iter().find(is_accepted).cloned()
    }

    /// A file with the meta information of the instance (PS3.10 7.1).
    fn begin(&self, command: &Command, transfer_syntax: &str) -> Result<Incoming, Refusal> {
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(&*command.class_uid)
            .media_storage_sop_instance_uid(&*command.instance_uid)
            .transfer_syntax(transfer_syntax)
            .build();
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        let written = meta.map(|meta| meta.write(&mut bytes));
        if !matches!(written, Ok(Ok(()))) {
            return Err(Refusal::new(Status::CannotUnderstand, "identifiers that cannot be written"));
        }
        let mut incoming = self.intake.spool().begin()?;
        incoming.write(&bytes)?;
        Ok(incoming)
    }

    // Frames of an enhanced object could be sent on from here, while it still comes: the groups that say where they lie
    // are before the pixels.
    async fn on_data(&mut self, bytes: Vec<u8>, is_last: bool) -> Result<(), Fault> {
        let Some(message) = &mut self.message else { return Err("a data set without a command".into()) };
        match &mut message.file {
            Ok(file) => {
                if let Err(refusal) = block_in_place(|| file.write(&bytes)) {
                    message.file = Err(refusal);
                }
            }
            Err(_) => {
                message.skipped += bytes.len() as u64;
                if message.skipped > self.intake.spool().limits().instance_bytes {
                    return Err("a data set without an end".into());
                }
            }
        }
        match self.message.take_if(|_| is_last) {
            Some(message) => self.answer(message).await,
            None => Ok(()),
        }
    }

    /// Stores the instance, if there is one, and answers.
    async fn answer(&mut self, message: Message) -> Result<(), Fault> {
        let Message { context, command, file, .. } = message;
        let outcome = match file {
            Ok(file) => self.store(file, &command).await,
            Err(refusal) => Err(refusal),
        };
        let (status, comment) = match outcome {
            Ok(()) => (Status::Success, String::new()),
            Err(Refusal { status, reason }) => (status, reason),
        };
        if status != Status::Success {
            tracing::warn!("{}: refused: {}", self.peer, Refusal::new(status, comment.clone()));
        }
        let data = vec![PDataValue {
            presentation_context_id: context,
            value_type: PDataValueType::Command,
            is_last: true,
            data: command.response(status, &comment),
        }];
        Ok(self.association.send(&Pdu::PData { data }).await?)
    }

    async fn store(&mut self, file: Incoming, command: &Command) -> Result<(), Refusal> {
        let claim =
            Claim { class_uid: command.class_uid.clone(), instance_uid: command.instance_uid.clone() };
        let intake = self.intake.clone();
        let stored = spawn_blocking(move || intake.store(file, Some(&claim))).await;
        // A panic is logged where it happens.
        let stored =
            stored.unwrap_or_else(|_| Err(Refusal::new(Status::CannotUnderstand, "reading it failed")))?;
        self.sending.add(&stored.series_id);
        self.stored += usize::from(stored.is_new);
        Ok(())
    }
}
