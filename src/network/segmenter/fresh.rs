//! Weights that nothing has trained yet: where training starts, and what tests run on.

use std::path::Path;

use tch::Device;
use tch::nn::VarStore;

use super::{AuxiliaryGenerator, Decoder, Encoder, SegmenterError};
use crate::bundle::{BundleConfig, NetworkConfig};
use crate::weights::{StoredAs, save_safetensors};

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
        // Drawn without the paper's parts, so that it is the same whichever of them the network has.
        let NetworkConfig { backbone, image_size, .. } = config.network;
        let plain = BundleConfig { network: NetworkConfig::plain(backbone, image_size), ..config.clone() };
        save_safetensors(&draw(&plain).0, path, StoredAs::Float32)?;
    }
    Ok(())
}
