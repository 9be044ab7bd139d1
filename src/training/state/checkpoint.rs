//! Checkpoints: one shard per part, and a manifest that is written when all shards of a step exist.
//!
//! ```text
//! checkpoints/step-00002500/encoder.safetensors      written by the encoder, atomically
//!                           generator.safetensors
//!                           decoder.safetensors
//!                           manifest.json             last: the sha256 of every shard
//! ```
//!
//! A step without a manifest, or with a shard that differs from the manifest's hash, is incomplete. A run resumes
//! from the newest complete step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::files::write_atomically;
use crate::training::error::TrainingError;
use crate::weights::{Tensors, from_bytes, sha256_of_bytes, to_bytes};

/// Shards of a step by the names of their parts.
pub type Shards = BTreeMap<String, Tensors>;

const MANIFEST: &str = "manifest.json";
const STEP: &str = "step-";

/// The manifest of a complete checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Steps that have been made.
    pub step: u64,
    /// Training time so far, seconds.
    pub seconds: f64,
    /// The best validation so far, if any.
    pub best: Option<Best>,
    /// sha256 of each part's shard.
    pub shards: BTreeMap<String, String>,
}

/// The step with the best validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its step.
    pub step: u64,
    /// Its mean Dice, 0 to 1.
    pub dice: f64,
}

/// A folder of checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Checkpoints in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn step_folder(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{STEP}{step:08}"))
    }

    fn shard_path(&self, step: u64, part: &str) -> PathBuf {
        self.step_folder(step).join(format!("{part}.safetensors"))
    }

    /// Writes a part's shard of a step and returns its sha256, for the manifest.
    ///
    /// # Errors
    /// [`TrainingError::Io`], [`TrainingError::Shard`].
    pub fn write_shard(&self, step: u64, part: &str, tensors: &Tensors) -> Result<String, TrainingError> {
        let path = self.shard_path(step, part);
        let bytes =
            to_bytes(tensors).map_err(|reason| TrainingError::Shard { path: path.clone(), reason })?;
        let folder = self.step_folder(step);
        fs::create_dir_all(&folder).map_err(TrainingError::io(folder))?;
        write_atomically(&path, |file| file.write_all(&bytes)).map_err(TrainingError::io(path))?;
        Ok(sha256_of_bytes(&bytes))
    }

    /// Completes a step whose shards are all written. Then removes every other step except the best one; what cannot
    /// be removed stays, with a warning.
    ///
    /// # Errors
    /// [`TrainingError::Io`].
    pub fn complete(&self, manifest: &Manifest) -> Result<(), TrainingError> {
        let path = self.step_folder(manifest.step).join(MANIFEST);
        write_atomically(&path, |file| {
            serde_json::to_writer_pretty(&mut *file, manifest)?;
            file.write_all(b"\n")
        })
        .map_err(TrainingError::io(path))?;
        let best = manifest.best.map(|best| best.step);
        for step in self.steps()?.into_iter().filter(|&step| step < manifest.step && Some(step) != best) {
            let folder = self.step_folder(step);
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!("{}: {error}; the old checkpoint is left", folder.display());
            }
        }
        Ok(())
    }

    /// The newest complete step with its shards. Incomplete steps are skipped with a warning that names the file.
    /// `None` if no checkpoint has ever been completed.
    ///
    /// # Errors
    /// [`TrainingError::Io`] if the folder cannot be read; why the oldest step is damaged if all are.
    pub fn newest(&self) -> Result<Option<(Manifest, Shards)>, TrainingError> {
        let mut damaged = None;
        for step in self.steps()?.into_iter().rev() {
            match self.read(step) {
                Ok(found) => return Ok(Some(found)),
                Err(error) => {
                    tracing::warn!("checkpoint of step {step} is skipped: {error}");
                    if self.step_folder(step).join(MANIFEST).exists() {
                        damaged = Some(error);
                    }
                }
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// A step and its shards.
    ///
    /// # Errors
    /// [`TrainingError::Io`] and [`TrainingError::Shard`], naming the file that is missing or damaged.
    pub fn read(&self, step: u64) -> Result<(Manifest, Shards), TrainingError> {
        let path = self.step_folder(step).join(MANIFEST);
        let damaged = |path: &Path, reason: String| TrainingError::Shard { path: path.into(), reason };
        let bytes = fs::read(&path).map_err(TrainingError::io(&path))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.to_string()))?;
        if manifest.step != step {
            return Err(damaged(&path, format!("it belongs to step {}", manifest.step)));
        }
        let shards = self.read_shards(step, &manifest.shards)?;
        Ok((manifest, shards))
    }

    /// The shards of a step that may still be incomplete, given their sha256 by part.
    ///
    /// # Errors
    /// As those of [`Checkpoints::read`].
    pub fn read_shards(&self, step: u64, sha256: &BTreeMap<String, String>) -> Result<Shards, TrainingError> {
        let mut shards = Shards::new();
        for (part, expected) in sha256 {
            let path = self.shard_path(step, part);
            let damaged = |reason| TrainingError::Shard { path: path.clone(), reason };
            let bytes = fs::read(&path).map_err(TrainingError::io(&path))?;
            let found = sha256_of_bytes(&bytes);
            if found != *expected {
                return Err(damaged(format!("damaged: sha256 is {found}, the manifest says {expected}")));
            }
            shards.insert(part.clone(), from_bytes(&bytes).map_err(damaged)?);
        }
        Ok(shards)
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.steps().is_ok_and(|steps| steps.is_empty())
    }

    /// Whether a step has its manifest.
    pub fn has_complete(&self) -> bool {
        let has_manifest = |step: &u64| self.step_folder(*step).join(MANIFEST).exists();
        self.steps().is_ok_and(|steps| steps.iter().any(has_manifest))
    }

    /// Steps that have a folder, ascending.
    fn steps(&self) -> Result<Vec<u64>, TrainingError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainingError::io(&self.folder)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(TrainingError::io(&self.folder))?.file_name();
            steps.extend(name.to_string_lossy().strip_prefix(STEP).and_then(|step| step.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;
    use tempfile::TempDir;

    use super::*;

    fn folder() -> (TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().join("checkpoints"));
        (folder, checkpoints)
    }

    fn write(checkpoints: &Checkpoints, step: u64, best: Option<Best>) {
        let shard = |part: &str| {
            let tensors = Tensors::from([("w".into(), Tensor::from_slice(&[step as f32]))]);
            (part.to_owned(), checkpoints.write_shard(step, part, &tensors).unwrap())
        };
        let shards = BTreeMap::from(["encoder", "decoder"].map(shard));
        checkpoints.complete(&Manifest { step, seconds: 1.5, best, shards }).unwrap();
    }

    fn newest(checkpoints: &Checkpoints) -> Option<u64> {
        checkpoints.newest().unwrap().map(|(manifest, shards)| {
            assert!(shards.values().all(|shard| shard["w"].double_value(&[0]) == manifest.step as f64));
            manifest.step
        })
    }

    #[test]
    fn best_and_last_are_kept() {
        let (_folder, checkpoints) = folder();
        assert!(checkpoints.is_empty() && newest(&checkpoints).is_none());
        let best = Some(Best { step: 20, dice: 0.8 });
        write(&checkpoints, 10, None);
        write(&checkpoints, 20, best);
        write(&checkpoints, 30, best);
        write(&checkpoints, 40, best);
        assert_eq!(checkpoints.steps().unwrap(), [20, 40]);
        assert_eq!(newest(&checkpoints), Some(40));
        assert_eq!(checkpoints.read(20).unwrap().0.best, best);
    }

    #[test]
    fn a_step_whose_shards_are_not_all_there_does_not_count() {
        let (_folder, checkpoints) = folder();
        write(&checkpoints, 10, None);
        checkpoints.write_shard(20, "encoder", &Tensors::new()).unwrap();
        assert_eq!(newest(&checkpoints), Some(10));
    }

    #[test]
    fn half_written_damaged_and_foreign_files_are_survived() {
        let faults: [fn(&Path); 5] = [
            |step| {
                let path = step.join("decoder.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            },
            |step| {
                let path = step.join("encoder.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                fs::write(&path, bytes).unwrap();
            },
            |step| fs::remove_file(step.join("encoder.safetensors")).unwrap(),
            |step| fs::write(step.join(MANIFEST), "{").unwrap(),
            |step| fs::write(step.join(MANIFEST), "").unwrap(),
        ];
        for fault in faults {
            let (_folder, checkpoints) = folder();
            write(&checkpoints, 10, Some(Best { step: 10, dice: 0.5 }));
            write(&checkpoints, 20, Some(Best { step: 10, dice: 0.5 }));
            fault(&checkpoints.step_folder(20));
            fs::create_dir(checkpoints.folder.join("step-later")).unwrap();
            assert_eq!(newest(&checkpoints), Some(10));
        }
    }

    #[test]
    fn damage_to_all_checkpoints_is_an_error_and_not_a_new_beginning() {
        let (_folder, checkpoints) = folder();
        write(&checkpoints, 10, None);
        fs::write(checkpoints.shard_path(10, "encoder"), "x").unwrap();
        assert!(checkpoints.newest().unwrap_err().to_string().contains("encoder.safetensors"));
    }

    #[test]
    fn what_is_wrong_names_the_file() {
        let (_folder, checkpoints) = folder();
        write(&checkpoints, 10, None);
        fs::write(checkpoints.shard_path(10, "encoder"), "x").unwrap();
        let error = checkpoints.read(10).unwrap_err().to_string();
        assert!(error.contains("step-00000010/encoder.safetensors: damaged"), "{error}");
    }
}
