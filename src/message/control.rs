//! Control messages, JSON in a string array: cases and the end of input from the loader, acknowledgements
//! from the writer, signs of life from the nodes between; in training, what the writer asks for and what the others
//! report.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::MessageError;
use crate::volume::CasePlan;

/// Loader to writer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseMessage {
    /// A case whose windows follow.
    Open(Box<CaseOpen>),
    /// A case that cannot be segmented.
    Failed {
        /// Name of the case.
        case_id: String,
        /// One line naming the file and the cause.
        error: String,
    },
    /// No case follows.
    End {
        /// Cases found in the input, failed ones included.
        cases: usize,
    },
}

/// A case whose windows follow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseOpen {
    /// Run of the dataflow.
    pub session_id: String,
    /// Segment id of the case's first window; the others follow in order.
    pub first_segment: i64,
    /// Place of the case in the input, from 0.
    pub index: usize,
    /// Cases found in the input.
    pub cases: usize,
    /// Class names, background first.
    pub classes: Vec<String>,
    /// When the loader started, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When the command was given that started the dataflow, milliseconds since 1970, where that is known.
    #[serde(default)]
    pub commanded_unix_ms: Option<u64>,
    /// Geometry and files.
    pub plan: CasePlan,
}

/// Writer to loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// The writer is there and remembers nothing: sent once at its start.
    Hello,
    /// A window has arrived. Its logits are in the writer's memory until the case is written.
    Segment(i64),
    /// The files of a case are on disk, its failure is noted, or the end is reached.
    Case(String),
    /// A case cannot be written; the loader need not send it again.
    CaseFailed {
        /// Name of the case.
        case_id: String,
        /// One line naming the file and the cause.
        error: String,
    },
    /// Windows that have arrived and wait while the writer writes a case.
    Working(Vec<i64>),
    /// The end of input has arrived and everything is written.
    End,
    /// The end of input has arrived, but the last files cannot be written.
    EndFailed(String),
}

/// An [`Ack`] and which start of the writer sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckMessage {
    /// Differs after a restart of the writer.
    pub writer_id: String,
    /// What is acknowledged.
    pub ack: Ack,
}

/// Any node between loader and writer to the loader: these windows are being worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Segment ids held complete.
    pub segments: Vec<i64>,
    /// Windows that cannot be computed, each with one line saying why; sending them again would not help.
    #[serde(default)]
    pub failed: Vec<(i64, String)>,
}

/// Writer to loader, in training: what to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The windows of a step.
    Step {
        /// From 0.
        step: u64,
        /// How often they were sent before.
        attempt: i64,
    },
    /// The run is over.
    End,
}

/// Loader to writer, in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    /// The windows of a step have been sent.
    Sent {
        /// Their step.
        step: u64,
        /// How long they were waited for, seconds.
        waited: f64,
    },
    /// Windows are being made: said every second until they are there.
    Working,
    /// Windows cannot be made: one line saying why.
    Failed(String),
}

/// Writer to the parts of the network, in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Write your shard of the checkpoint after so many steps.
    Save(u64),
    /// The run is over.
    End,
}

/// A part of the network to the writer, in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It is working on windows: sent every second while there are any.
    Working,
    /// A step is made and the parameters are updated.
    Learned {
        /// The step, from 0.
        step: u64,
        /// Mean loss of its windows, unweighted; 0 for a part that has none.
        loss: f64,
        /// Norm of the gradients.
        gradient_norm: f64,
    },
    /// The shard after so many steps is on disk.
    Saved {
        /// Steps made.
        step: u64,
        /// Of the file.
        sha256: String,
    },
    /// The shard cannot be written: one line saying why. The training can go on.
    NotSaved {
        /// Steps made.
        step: u64,
        /// Cause.
        error: String,
    },
    /// The training cannot go on: one line saying why.
    Failed(String),
}

/// A control message as JSON.
///
/// # Errors
/// [`MessageError::Json`].
pub fn to_json(message: &impl Serialize) -> Result<String, MessageError> {
    Ok(serde_json::to_string(message)?)
}

/// A control message from JSON.
///
/// # Errors
/// [`MessageError::Json`].
pub fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, MessageError> {
    Ok(serde_json::from_str(json)?)
}
