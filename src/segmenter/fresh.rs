//! Weights that nothing has trained yet: where training starts, and what tests run on.

use std::path::Path;

use tch::Device;
use tch::nn::VarStore;

use super::{AuxiliaryGenerator, Decoder, Encoder, SegmenterError};
use crate::bundle::BundleConfig;
use crate::sam::checkpoint::{StoredAs, save_safetensors};

/// Writes freshly initialised trained parts of `config` to `adapters`, and, where `backbone` is given, random
/// weights of its SAM backbone there (for `vit_tiny`, which has no published ones). The same seed gives the same
/// files.
///
/// # Errors
/// A file that cannot be written.
pub fn write_fresh_weights(
    config: &BundleConfig,
    seed: i64,
    adapters: &Path,
    backbone: Option<&Path>,
) -> Result<(), SegmenterError> {
    tch::manual_seed(seed);
    let (sam, trained) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    Encoder::new(config, &sam, &trained);
    Decoder::new(config, &sam, &trained);
    AuxiliaryGenerator::new(config, &trained);
    save_safetensors(&trained, adapters, StoredAs::Float32)?;
    if let Some(path) = backbone {
        save_safetensors(&sam, path, StoredAs::Float32)?;
    }
    Ok(())
}
