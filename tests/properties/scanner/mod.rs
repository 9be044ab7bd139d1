//! The receiver of scanners: real associations within one process, hostile ones included.

mod delivery;
mod folder;
mod hostile;
mod mrd;
mod outbox;
pub mod peer;
mod receiver;
mod sender;
mod spool;
