//! How a node runs: start-up, assembly of windows from slices, credits and sending again, and the event loops of the
//! loader, the stages and the writer.
//!
//! dora 1.1 has no lossless transport, so loader and writer guarantee delivery: stages keep no state between
//! windows, and the loader keeps a window until the writer has acknowledged it, and sends it again if it is lost.

mod assembly;
mod byte_lock;
mod clock;
mod command_start;
mod device;
mod dispatch;
mod events;
mod export;
mod input;
mod join;
pub mod live;
pub mod loader;
mod notice;
mod prompt_stage;
mod said;
mod sample;
mod setting_text;
mod settings;
mod shared_memory;
mod stage;
mod startup;
mod threads;
pub mod training;
mod turns;
mod variables;
pub mod view;
pub mod writer;

pub use assembly::{Assembler, Window};
pub use device::{check_edges, compute, compute_in, device, device_by_name, load_cuda};
pub use dispatch::{Action, Dispatcher, Timing};
pub use input::{Input, InputKind};
pub use join::Leave;
pub use notice::{NOTICES_VARIABLE, Notice, Progress, tell};
pub use prompt_stage::{PromptStage, decode_window_prompts};
pub use setting_text::{decode_setting, encode_setting};
pub use settings::{NamedBox, Settings, number};
pub use shared_memory::{Room, SharedMemory};
pub use stage::{Emit, Output, Stage, run_stage};
pub use startup::{Failures, exit_code, forget_package, reason, small_node_main, transport_overlay};
pub use threads::{node_main, prepare};
