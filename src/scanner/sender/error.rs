//! Why instances could not be sent. Each message is one line that names the receiver or the file.

use dicom_ul::association::Error;
use dicom_ul::pdu::{AssociationRJResult, AssociationRJSource, Pdu};
use thiserror::Error as ThisError;

use crate::dicom::DicomError;

/// Error of [`crate::scanner::sender`]. After it the association has ended.
#[derive(Debug, ThisError)]
pub enum SendError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] DicomError),
    /// An instance cannot be encoded or named.
    #[error("{name}: {reason}")]
    Instance { name: String, reason: String },
    /// Nothing to send, or too many kinds for one association (PS3.8 9.3.2.2: 128).
    #[error("{count} SOP classes and transfer syntaxes for one association: 1 to 128 are possible")]
    Contexts { count: usize },
    /// Nobody listens at the address.
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
    /// The receiver does not want to talk to us.
    #[error("{address} rejects the association: {reason}")]
    Rejected { address: String, reason: String, is_transient: bool },
    /// The receiver accepts none of the SOP classes in any of the transfer syntaxes.
    #[error("{address} accepts none of the SOP classes in these transfer syntaxes")]
    NothingAccepted { address: String },
    /// A time limit has passed.
    #[error("{address} takes too long")]
    TimedOut { address: String },
    /// The receiver has aborted the association.
    #[error("{address} has aborted the association")]
    Aborted { address: String },
    /// The connection has ended.
    #[error("the connection to {address} is lost")]
    Lost { address: String },
    /// The receiver violates the protocol.
    #[error("{address}: {reason}")]
    Broken { address: String, reason: String },
}

impl SendError {
    /// Whether sending again later may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut { .. } | Self::Aborted { .. } | Self::Lost { .. } => true,
            Self::Rejected { is_transient, .. } => *is_transient,
            Self::File(_)
            | Self::Instance { .. }
            | Self::Contexts { .. }
            | Self::NothingAccepted { .. }
            | Self::Broken { .. } => false,
        }
    }

    pub(super) fn broken(address: &str, reason: impl Into<String>) -> Self {
        Self::Broken { address: address.into(), reason: reason.into() }
    }

    /// An error of the association with the receiver at `address`.
    pub(super) fn of(error: Error, address: &str) -> Self {
        let address = address.to_owned();
        match error {
            Error::Connect { source, .. } | Error::ToAddress { source, .. } => {
                Self::Connect { address, reason: source.to_string() }
            }
            Error::Rejected { association_rj, .. } => Self::Rejected {
                address,
                reason: rejection(&association_rj.source),
                is_transient: association_rj.result == AssociationRJResult::Transient,
            },
            Error::NoAcceptedPresentationContexts { .. } => Self::NothingAccepted { address },
            Error::Timeout { .. } => Self::TimedOut { address },
            Error::Aborted { .. } => Self::Aborted { address },
            Error::UnexpectedPdu { pdu, .. } if matches!(*pdu, Pdu::AbortRQ { .. }) => {
                Self::Aborted { address }
            }
            Error::ConnectionClosed { .. } | Error::WireSend { .. } | Error::WireRead { .. } => {
                Self::Lost { address }
            }
            Error::ReceivePdu { source: dicom_ul::pdu::ReadError::ReadPdu { .. }, .. } => {
                Self::Lost { address }
            }
            Error::SendTooLongPdu { .. } => Self::broken(&address, "it takes too short PDUs"),
            _ => Self::broken(&address, "an answer that violates the protocol"),
        }
    }
}

fn rejection(source: &AssociationRJSource) -> String {
    match source {
        AssociationRJSource::ServiceUser(reason) => reason.to_string(),
        AssociationRJSource::ServiceProviderASCE(reason) => reason.to_string(),
        AssociationRJSource::ServiceProviderPresentation(reason) => reason.to_string(),
    }
}
