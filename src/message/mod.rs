//! The wire contract: the format of a message between two nodes.
//!
//! A message holds one tensor of one slice, or one feature level of one slice. In training it holds several
//! consecutive slices. The tensor is an Arrow array without nulls in C order, with a [`SliceHeader`] as
//! metadata. The prompts of a slice are one Arrow struct array ([`encode_prompts`]). Cases, acknowledgements
//! and heartbeats are JSON in a string array ([`control`]).

pub mod control;
mod error;
mod header;
pub mod live;
mod payload;
mod prompts;
mod text;
mod wire_kind;

pub use error::MessageError;
pub use header::{NodeTimes, SliceHeader, keys};
pub use payload::{activation_kind, check_length, copy_slices, encode_tensor, tensor_kind, view_tensor};
pub use prompts::{decode_prompts, encode_prompts};
pub use text::{encode_text, from_json, text, to_json};
pub use wire_kind::{WireKind, to_wire};
