//! Images of scanners that stream them by MRD, version 1 (ISMRM raw data, the protocol of FIRE, OpenRecon and Gadgetron),
//! and the masks as answers on the same connection.
//!
//! ```text
//! client ─► Reader (messages) ─► Series (DICOM files) ─► Intake … as DICOM images
//! client ◄─ Outbox (a task) ◄─ Answers (which mask belongs to which message) ◄─ masks of the writer
//! ```
//!
//! Source: the ISMRMRD/MRD document and the reference library `ismrmrd` 1.15.0. All numbers are little-endian.

mod access;
mod answers;
mod fault;
mod geometry;
mod header;
mod kind;
mod link;
mod made;
mod meta;
mod pixels;
mod reader;
mod returned;
mod scan;
mod series;
mod server;
mod session;

pub use access::{MrdListen, Returns, parse_addresses};
pub use answers::{Answer, Answers, State};
pub use fault::Fault;
pub use geometry::Position;
pub use header::{HEADER_BYTES, ImageHeader, Layout};
pub use kind::MessageKind;
pub use link::MaskLink;
pub use made::encode_slice;
pub use meta::Meta;
pub use pixels::PixelType;
pub use reader::{Message, ReadLimits, Reader, Skipped};
pub use returned::{encode_header, encode_header_text, encode_text};
pub use scan::ScanHeader;
pub use series::{Images, describe};
pub use server::MrdServer;
