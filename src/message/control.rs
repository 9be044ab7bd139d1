//! Control messages, as JSON in a string array. In inference: cases and the end of input from the loader,
//! acknowledgements from the writer, heartbeats from the nodes between. In training: orders from the writer,
//! reports from the others.

use serde::{Deserialize, Serialize};

pub use super::text::{from_json, to_json};
use crate::volume::{CasePlan, ClassTable, VoxelBox};

/// Loader to writer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseMessage {
    /// Announces a case; its windows follow.
    Open(Box<CaseOpen>),
    /// A case that cannot be segmented.
    Failed {
        /// Name of the case.
        case_id: String,
        /// One line naming the file and the cause.
        error: String,
    },
    /// A live case that is no longer wanted; it counts neither as segmented nor as failed.
    Dropped {
        /// Name of the case.
        case_id: String,
    },
    /// Images of a live series of which no part is to be segmented: their masks are background.
    Background {
        /// Name of the case.
        case_id: String,
        /// Number of classes, background included.
        classes: usize,
        /// The images.
        live: LiveCase,
    },
    /// No case follows.
    End {
        /// Cases found in the input, failed ones included.
        cases: usize,
    },
}

/// The description of a case that precedes its windows.
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
    /// The classes with their voxel values in label maps, background first.
    pub classes: ClassTable,
    /// When the loader started, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When the command that started the dataflow was given, milliseconds since 1970, if known.
    #[serde(default)]
    pub commanded_unix_ms: Option<u64>,
    /// Geometry and files.
    pub plan: CasePlan,
    /// The images of a live series in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveCase>,
    /// Whether only the place of the classes is wanted, and nothing is written: the first of two passes over a case,
    /// under a name of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub search: bool,
}

/// Name under which the first pass over a case is announced.
pub fn search_name(case_id: &str) -> String {
    format!("{case_id} (first pass)")
}

/// Images of a live series whose masks the writer sends when the case is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCase {
    /// The series.
    pub series_id: String,
    /// Revision of the series.
    pub revision: i64,
    /// Whether the series goes on: then only masks are sent, and nothing is written.
    pub provisional: bool,
    /// Rows and columns of its images.
    pub shape: [usize; 2],
    /// The images whose masks are sent.
    pub images: Vec<LiveImage>,
    /// When the loader made the case, nanoseconds since 1970.
    pub planned_ns: i64,
}

/// An image of a live series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveImage {
    /// Its place in the order of arrival.
    pub index: i64,
    /// Its slice in the volume as stored; `None` if it lies outside the region of interest, where all is background.
    pub slice: Option<usize>,
    /// When its last byte arrived, nanoseconds since 1970.
    pub received_ns: i64,
    /// When the image arrived at the loader, nanoseconds since 1970.
    pub arrived_ns: i64,
}

/// Writer to loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// The writer has started and has no cases in memory; sent once.
    Hello,
    /// A window has arrived. Its logits are in the writer's memory until the case is written.
    Segment(i64),
    /// The files of a case are on disk, its failure is noted, or the end is reached.
    Case(String),
    /// The masks of a provisional case are sent.
    Shown {
        /// Name of the case.
        case_id: String,
        /// Columns and rows of the foreground, `[first, end]` each, if there is any.
        bounds: Option<[[usize; 2]; 2]>,
    },
    /// The first pass over a case is complete.
    Located {
        /// Name of the case of the first pass.
        case_id: String,
        /// Its first segment: a case that is planned anew has another.
        first_segment: i64,
        /// The foreground, if there is any.
        found: Option<VoxelBox>,
    },
    /// A case cannot be written; the loader need not send it again.
    CaseFailed {
        /// Name of the case.
        case_id: String,
        /// One line naming the file and the cause.
        error: String,
    },
    /// These windows have arrived and wait while the writer writes a case.
    Working(Vec<i64>),
    /// The end of input has arrived and all files are written.
    End,
    /// The end of input has arrived, but the last files cannot be written: one line saying why.
    EndFailed(String),
}

/// An [`Ack`] with the id of the writer process that sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckMessage {
    /// Changes when the writer restarts.
    pub writer_id: String,
    /// What is acknowledged.
    pub ack: Ack,
}

/// From a node between loader and writer to the loader: the windows that it is working on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Ids of the windows that the node holds completely.
    pub segments: Vec<i64>,
    /// Windows that cannot be computed, each with one line saying why. Sending them again would not help.
    #[serde(default)]
    pub failed: Vec<(i64, String)>,
}

/// Writer to loader, in training: what to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Send the windows of this step.
    Step {
        /// The step, from 0.
        step: u64,
        /// How often the windows were sent before.
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
        /// The step.
        step: u64,
        /// How long the loader waited for the windows, seconds.
        waited: f64,
    },
    /// The loader is preparing windows; sent every second until they are ready.
    Working,
    /// The windows cannot be prepared: one line saying why.
    Failed(String),
}

/// Writer to the parts of the network, in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Write your shard of the checkpoint once this many steps are done.
    Save(u64),
    /// The run is over.
    End,
}

/// A part of the network to the writer, in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The part is working on windows; sent every second while it does.
    Working,
    /// A step is done and the parameters are updated.
    Learned {
        /// The step, from 0.
        step: u64,
        /// Mean unweighted loss of the step's windows; 0 for a part without a loss.
        loss: f64,
        /// Gradient norm.
        gradient_norm: f64,
    },
    /// The checkpoint shard is on disk.
    Saved {
        /// Number of steps done.
        step: u64,
        /// SHA-256 of the file.
        sha256: String,
    },
    /// The shard cannot be written. Training can go on.
    NotSaved {
        /// Number of steps done.
        step: u64,
        /// One line saying why.
        error: String,
    },
    /// Training cannot go on: one line saying why.
    Failed(String),
}
