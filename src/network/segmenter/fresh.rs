//! Newly initialised weights, for the start of training and for tests.

use std::path::Path;

use tch::Device;
use tch::nn::VarStore;

use super::{AuxiliaryGenerator, Decoder, Encoder, SegmenterError};
use crate::bundle::{BundleConfig, NetworkConfig};
use crate::weights::{StoredAs, save_safetensors};

/// Writes the newly initialised trainable parts of `config` to `adapters`. If `backbone` is given, also writes
/// random weights of its SAM backbone there (for `vit_tiny`, which has no published weights). The same seed gives
/// the same files.
///
/// # Errors
/// A file that cannot be written.
pub fn write_fresh_weights(
    config: &BundleConfig,
    seed: i64,
    adapters: &Path,
    backbone: Option<&Path>,
) -> Result<(), SegmenterError> {
    let draw = |config: &BundleConfig| {
        tch::manual_seed(seed);
        let (sam, trained) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        Encoder::new(config, &sam, &trained);
        Decoder::new(config, &sam, &trained);
        AuxiliaryGenerator::new(config, &trained);
        (sam, trained)
    };
    save_safetensors(&draw(config).1, adapters, StoredAs::Float32)?;
    if let Some(path) = backbone {
        // Drawn without the paper's modules, so that the backbone does not depend on which of them the network has.
        let NetworkConfig { backbone, image_size, .. } = config.network;
        let plain = BundleConfig { network: NetworkConfig::plain(backbone, image_size), ..config.clone() };
        save_safetensors(&draw(&plain).0, path, StoredAs::Float32)?;
    }
    Ok(())
}
