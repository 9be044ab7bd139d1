//! Images of scanners: a DICOM receiver, an MRD server, a watched folder, a spool that loses nothing that was acknowledged, and the
//! order in which the images of series are sent on. And a sender, for archives and for trying all this without a scanner, and
//! an outbox from which it delivers what was made.
//!
//! ```text
//! peers ──► network ─┐
//! folder ─► watch ───┤
//! MRD ────► mrd ─────┴► Intake ─► Spool (files) ─► Desk (what is sent when) ─► Decoder (pixels)
//! ```
//!
//! What identifies a patient stays in the files of the spool. Other processes may read it (`spooled_images`).

mod decode;
mod desk;
mod dimse;
mod intake;
mod limits;
pub mod mrd;
pub mod network;
pub mod outbox;
pub mod sender;
mod spool;
mod watch;

pub use decode::{Decoded, Decoder, Request};
pub use desk::{Desk, Outgoing};
pub use intake::Intake;
pub use limits::Limits;
pub use spool::{Claim, ImageFile, Incoming, Record, Refusal, SeriesState, Spool, Status, Stored};
pub use spool::{spool_folder, spooled_images};
pub use watch::Watch;

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
