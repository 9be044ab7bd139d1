//! Instances that are to be delivered (C-STORE), on disk, so that they outlive this process, and the thread that sends them.
//!
//! ```text
//! <outbox>/lock                       held by the process that sends
//! <outbox>/<time>_<name>              waits, oldest first
//! <outbox>/refused/<time>_<name>      the receiver refuses it for good
//! ```

mod courier;
mod folder;

pub use courier::Courier;
pub use folder::{Outbox, OutboxError, OutboxLimits};
