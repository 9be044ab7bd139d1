//! The trained parts. Each has its part of the network, an optimiser, and a shard of every checkpoint.

mod decoder;
mod encoder;
mod generator;
mod part;

pub use decoder::{Decoded, DecoderPart};
pub use encoder::{EncodedGradients, EncoderPart, received};
pub use generator::{Generated, GeneratorPart};
pub use part::{Part, PartName};
