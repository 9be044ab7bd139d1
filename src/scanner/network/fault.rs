//! How an association ends before its release, in words without anything that the peer has sent.

use dicom_ul::association::Error;
use dicom_ul::pdu::ReadError;
use thiserror::Error as ThisError;

/// Why an association has ended.
#[derive(Debug, ThisError)]
pub(super) enum Fault {
    /// The peer is not accepted.
    #[error("rejected: {0}")]
    Rejected(String),
    #[error("the peer has aborted")]
    Aborted,
    #[error("the connection is lost")]
    Lost,
    #[error("the peer was silent or too slow")]
    Idle,
    /// The peer violates the protocol.
    #[error("{0}")]
    Broken(String),
}

impl Fault {
    /// Whether an abort tells the peer anything.
    pub fn is_to_be_told(&self) -> bool {
        matches!(self, Self::Idle | Self::Broken(_))
    }
}

impl From<&'static str> for Fault {
    fn from(reason: &'static str) -> Self {
        Self::Broken(reason.into())
    }
}

/// The error's own text may hold data of patients.
impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected { association_rj, .. } => Self::Rejected(association_rj.source.to_string()),
            Error::Aborted { .. } => Self::Aborted,
            Error::Timeout { .. } => Self::Idle,
            Error::ConnectionClosed { .. } | Error::WireSend { .. } | Error::WireRead { .. } => Self::Lost,
            Error::ReceivePdu { source: ReadError::ReadPdu { .. }, .. } => Self::Lost,
            Error::ReceivePdu {
                source: ReadError::PduTooLarge { pdu_length, max_pdu_length, .. }, ..
            } => Self::Broken(format!("a PDU of {pdu_length} bytes; at most {max_pdu_length} are allowed")),
            Error::ReceivePdu { .. } => Self::Broken("a PDU that cannot be read".into()),
            Error::UnexpectedPdu { .. } => Self::Broken("an unexpected PDU".into()),
            Error::UnknownPdu { .. } => Self::Broken("a PDU of an unknown kind".into()),
            _ => Self::Broken("the association cannot be established".into()),
        }
    }
}
