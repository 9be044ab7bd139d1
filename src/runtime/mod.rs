//! How a node runs: start-up, assembly of windows from slices, credits and re-sending, and the loops of the
//! loader, of the stages between and of the writer.
//!
//! Nothing dora 1.1 offers is lossless, so the guarantee is made end to end: stages keep no state between
//! windows, the loader keeps a window until the writer has acknowledged it and sends it again when it is lost.

mod assembly;
mod command_start;
mod device;
mod dispatch;
mod events;
mod export;
pub mod loader;
mod prompt_stage;
mod setting_text;
mod settings;
mod stage;
mod startup;
pub mod training;
mod turns;
pub mod writer;

pub use assembly::{Assembler, Input, InputKind, Window};
pub use device::{compute, compute_in, device, load_cuda};
pub use dispatch::{Action, Dispatcher, Timing};
pub use prompt_stage::{PromptStage, decode_window_prompts};
pub use setting_text::{decode_setting, encode_setting};
pub use settings::{NamedBox, Settings, number};
pub use stage::{Emit, Output, Stage, run_stage};
pub use startup::{exit_code, forget_package, node_main, prepare};
