//! The bundle of a trained network: `model.yml`, the added weights and, if it was trained, the backbone, in fp16.

use std::fs;
use std::path::{Component, Path, PathBuf};

use tch::Device;
use tch::nn::VarStore;

use super::Trainer;
use crate::bundle::{Bundle, BundleConfig, LargestComponent, WeightFile};
use crate::files::write_atomically;
use crate::network::segmenter::{AuxiliaryGenerator, Decoder, Encoder};
use crate::training::error::TrainingError;
use crate::training::parts::Part;
use crate::weights::{StoredAs, save_safetensors, sha256_file};

const ADAPTERS: &str = "adapters.safetensors";
const BACKBONE: &str = "backbone.safetensors";

/// Writes the bundle of the trained network to `folder`, with the rule for the components that it keeps.
///
/// # Errors
/// [`TrainingError::Weights`] for a weight that is not finite in fp16 or a file that cannot be written;
/// [`TrainingError::Io`].
pub fn export_bundle(
    trainer: &Trainer,
    folder: &Path,
    largest_component: LargestComponent,
) -> Result<Bundle, TrainingError> {
    let model = &trainer.config().model;
    fs::create_dir_all(folder).map_err(TrainingError::io(folder))?;
    let (sam, trained) = merged(trainer);
    let save = |store: &VarStore, file: &str| -> Result<WeightFile, TrainingError> {
        let path = folder.join(file);
        save_safetensors(store, &path, StoredAs::Float16)?;
        Ok(WeightFile { file: file.into(), sha256: sha256_file(&path)? })
    };
    let weights = match &model.weights {
        Some(weights) if !model.train_backbone => {
            WeightFile { file: relative(&weights.file, folder), sha256: weights.sha256.clone() }
        }
        _ => save(&sam, BACKBONE)?,
    };
    let config = BundleConfig { largest_component, ..model.bundle(weights, Some(save(&trained, ADAPTERS)?)) };
    let path = folder.join("model.yml");
    let yaml = serde_yaml::to_string(&config)
        .map_err(|source| TrainingError::Parse { path: path.clone(), source })?;
    write_atomically(&path, |file| file.write_all(yaml.as_bytes())).map_err(TrainingError::io(&path))?;
    Ok(Bundle::open(folder)?)
}

/// Stores of the whole network with the trained weights of its parts; the first is the backbone, if it is trained.
fn merged(trainer: &Trainer) -> (VarStore, VarStore) {
    let config = trainer.config().model.without_files();
    let (sam, trained) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    Encoder::new(&config, &sam, &trained);
    Decoder::new(&config, &sam, &trained);
    AuxiliaryGenerator::new(&config, &trained);
    let (mut of_sam, mut of_trained) = (sam.variables(), trained.variables());
    tch::no_grad(|| {
        for (name, value) in trainer.parts().into_iter().flat_map(Part::weights) {
            let variable = match name.split_once('/') {
                Some(("sam", name)) => of_sam.get_mut(name),
                Some((_, name)) => of_trained.get_mut(name),
                None => None,
            };
            if let Some(variable) = variable {
                variable.copy_(&value);
            }
        }
    });
    (sam, trained)
}

/// `file` relative to `folder`, so that both can be moved together; absolute if they have no common parent.
fn relative(file: &Path, folder: &Path) -> PathBuf {
    let (Ok(file), Ok(folder)) = (file.canonicalize(), folder.canonicalize()) else { return file.into() };
    let common = file.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    if common <= 1 {
        return file;
    }
    let up = folder.components().skip(common).map(|_| Component::ParentDir);
    up.chain(file.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_named_as_seen_from_the_bundle() {
        let root = tempfile::tempdir().unwrap();
        let (weights, bundle) = (root.path().join("w/lite.pth"), root.path().join("models/a"));
        fs::create_dir_all(root.path().join("w")).unwrap();
        fs::create_dir_all(&bundle).unwrap();
        fs::write(&weights, "").unwrap();
        assert_eq!(relative(&weights, &bundle), Path::new("../../w/lite.pth"));
        assert_eq!(relative(Path::new("absent"), &bundle), Path::new("absent"));
    }
}
