//! Why an instance is not stored.

use std::fmt;
use std::io;

/// Outcome of a C-STORE or C-ECHO (PS3.4 B.2.3, PS3.7 Annex C).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Success,
    /// The SOP class is not that of the presentation context.
    ClassNotSupported,
    /// An operation that is not offered.
    UnrecognizedOperation,
    /// Disk full, or a limit is reached.
    OutOfResources,
    /// The data set is not that which the command announced.
    DataSetMismatch,
    /// A data set that cannot be read or is no image.
    CannotUnderstand,
}

impl Status {
    pub fn code(self) -> u16 {
        match self {
            Self::Success => 0x0000,
            Self::ClassNotSupported => 0x0122,
            Self::UnrecognizedOperation => 0x0211,
            Self::OutOfResources => 0xa700,
            Self::DataSetMismatch => 0xa900,
            Self::CannotUnderstand => 0xc000,
        }
    }
}

/// Why an instance is not stored: its status, and the reason in one line that names no patient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: Status,
    pub reason: String,
}

impl Refusal {
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// The spool cannot be written to.
    pub fn no_space(error: &io::Error) -> Self {
        Self::new(Status::OutOfResources, format!("the spool: {error}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:04X})", self.reason, self.status.code())
    }
}
