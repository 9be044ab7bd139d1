//! How a connection ends before its CLOSE, in words without anything that the client has sent.

use std::io;

use thiserror::Error;

use crate::scanner::Refusal;

/// Why a connection has ended.
#[derive(Debug, Error)]
pub enum Fault {
    /// The client has left between two messages.
    #[error("the client has left without CLOSE")]
    Left,
    /// The client has left within a message.
    #[error("the connection has ended within a message")]
    Truncated,
    #[error("the connection is lost")]
    Lost,
    #[error("the client was silent or too slow")]
    Idle,
    /// The client does not take its answers.
    #[error("the client does not read what it is sent")]
    Unread,
    /// The client violates the protocol or a limit.
    #[error("{0}")]
    Broken(String),
    /// There is no space for its images.
    #[error("{0}")]
    NoSpace(Refusal),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}
