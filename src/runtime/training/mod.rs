//! The nodes in training (`dataflows/train.yml`).
//!
//! ```text
//! writer ─ order ─► loader ─ slices ─► encoder ─ features ─► generator ─ aux_masks ─► extractor ─ prompts ─► decoder
//!                      └─── labels ──► generator, decoder       │ features_grad                                 │
//!                                         encoder ◄─────────────┴───────────────────── embedding_grad ──────────┘
//! writer ─ control ─► encoder, generator, decoder ─ progress ─► writer
//! ```
//!
//! A run proceeds step by step. The writer orders the windows of a step from the loader. Every part learns from
//! them in order, updates its parameters after the last one, and reports this. Then the writer orders the next
//! step, or asks for a checkpoint first. The segment id of a window is its position in the stream, so every node
//! knows its step.
//!
//! Messages can be lost. If no node reports work on an unfinished step for a while, a message was lost: the writer
//! orders the windows again, and a part that has already learned from one repeats its outputs. No step begins
//! before the last one has ended everywhere, so a part only has to keep the outputs of its present step.
//!
//! If a node ends before the run does, the run ends, because parameters are in the nodes. It can be resumed from
//! its newest checkpoint.

mod keeper;
mod loader;
mod part;
mod prompts;
mod writer;

pub use loader::run_loader;
pub use part::{DecoderLearner, EncoderLearner, GeneratorLearner, Learner, run_part};
pub use prompts::TrainingPromptStage;
pub use writer::run_writer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eyre::{Result, bail};

use super::join::Leave;
use super::settings::{value, variable};
use crate::training::{Checkpoint, TrainingConfig};

/// A file in the output folder that asks a run to write a checkpoint and stop.
pub const STOP_FILE: &str = "stop";

/// How long a node waits for the end-of-run message after its inputs have closed, because other events can overtake
/// control messages.
const PATIENCE: Duration = Duration::from_secs(5);

/// The parameters that the nodes get of a run.
#[derive(Debug, Clone)]
pub struct TrainingRun {
    /// The configuration in the file named by `SPSAM_TRAINING`.
    pub config: TrainingConfig,
    /// Whether to resume the run in the output folder (`SPSAM_RESUME`).
    pub resume: bool,
}

impl TrainingRun {
    /// Reads the environment; `None` if this is not a training.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub fn from_env() -> Result<Option<Self>> {
        let Some(file) = value("SPSAM_TRAINING") else { return Ok(None) };
        let base = value("SPSAM_BASE").map(PathBuf::from).unwrap_or_default();
        let resume = match variable("SPSAM_RESUME").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => bail!("SPSAM_RESUME is `{other}`, expected 0 or 1"),
        };
        Ok(Some(Self { config: TrainingConfig::open(&base.join(file))?, resume }))
    }

    /// The configuration for making a part.
    ///
    /// # Errors
    /// A folder of checkpoints that cannot be read.
    pub fn of_parts(&self) -> Result<TrainingConfig> {
        Ok(if self.checkpoint()?.is_some() { self.config.resumed() } else { self.config.clone() })
    }

    /// The checkpoint from which the run resumes, if any. All nodes find the same one, because none is written
    /// before all nodes have joined.
    ///
    /// # Errors
    /// A folder that cannot be read.
    fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        Ok(if self.resume { self.config.checkpoints().newest()? } else { None })
    }
}

/// Whether the inputs of a node have closed before the end of the run arrived.
#[derive(Debug, Default)]
struct Closed(Option<(Instant, String)>);

impl Closed {
    /// An input has closed.
    fn note(&mut self, input: String) {
        self.0.get_or_insert_with(|| (Instant::now(), input));
    }

    /// Fails if the end has not arrived within [`PATIENCE`].
    fn check(&self) -> Result<()> {
        match &self.0 {
            Some((since, input)) if since.elapsed() > PATIENCE => {
                let error = format!("a node has ended before the training: input `{input}` is closed");
                bail!(Leave::EndedEarly(error))
            }
            _ => Ok(()),
        }
    }
}
