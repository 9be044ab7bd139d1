//! The configuration of a training run, one YAML file (`configs/`). Unknown fields are refused.

mod components;
mod patients;
mod split;

pub use components::ComponentRule;
pub use patients::patients;
pub use split::{Divided, Split};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::augment::AugmentationConfig;
use super::error::TrainingError;
use super::optimise::{LearningRate, LossConfig, OptimiserConfig, Schedule};
use super::sampling::PromptSampling;
use crate::bundle::{
    Bundle, BundleConfig, ClassCodes, Dataflow, GeneratorKind, LEAST_FLOAT_BYTES, NetworkConfig,
    Normalisation, Patch, SliceAxis, WeightFile,
};
use crate::compute::Precision;
use crate::volume::{IgnoreValues, Regrid};

/// A training run. Relative paths are relative to the folder of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// The network and its task; becomes the bundle's `model.yml`.
    pub model: ModelConfig,
    /// Folder of a bundle with the same network, whose weights are the start of the training (fine-tuning). Default:
    /// newly initialised weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<PathBuf>,
    /// Training and validation cases.
    pub data: DataConfig,
    /// Length of the training, and the times of its events.
    pub schedule: Schedule,
    /// Optimiser of every part.
    pub optimiser: OptimiserConfig,
    /// Learning rate over time.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub learning_rate: LearningRate,
    /// Weights of the losses. Default: cross entropy + Dice, auxiliary + final, all 1.
    #[serde(default)]
    pub loss: LossConfig,
    /// Augmentation of windows. Default: nnU-Net's, within slices.
    #[serde(default)]
    pub augmentation: AugmentationConfig,
    /// Prompts drawn anew for every window, so that the decoder learns to use anyone's. Default: the model's own prompts,
    /// as in inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptSampling>,
    /// Threads that prepare windows.
    #[serde(default)]
    pub prefetch: PrefetchConfig,
    /// Type in which the network computes in training: `fp32`, `bf16`, or `auto` (bf16 on hardware that supports
    /// it). The optimiser uses fp32. Default `auto`.
    #[serde(default)]
    pub precision: Precision,
    /// Seed of initial weights, order of cases and augmentation. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// Folder of checkpoints, curves and the bundle.
    pub output: PathBuf,
}

/// The network; as [`BundleConfig`], but without the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Short name, shown in reports.
    pub name: String,
    /// Class names; index 0 is the background.
    pub classes: Vec<String>,
    /// Codes of classes in DICOM segmentations, by class name, for the bundle. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ClassCodes>,
    /// Image channels in the order that the network expects.
    pub modalities: Vec<String>,
    /// Anatomical axis along which slices are stacked: `axial`, `coronal` or `sagittal`. Default `axial`.
    #[serde(default)]
    pub slice_axis: SliceAxis,
    /// Voxel spacing the network works at, mm, `[z, y, x]` with z the slice axis; absent = as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing_mm: Option<[f64; 3]>,
    /// Windows: slices and in-plane size. Overlaps and mirroring are used only in validation and in the bundle.
    pub patch: Patch,
    /// Intensity normalisation.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub normalisation: Normalisation,
    /// Which connected components are kept: `true`, only the largest of the foreground, for one organ or organs that touch;
    /// a list of classes, only the largest of each; `by_validation`, only the largest of each class whose Dice this
    /// improves on the validation cases, as nnU-Net does; or `false`, all. Default false.
    #[serde(default, skip_serializing_if = "ComponentRule::keeps_all")]
    pub largest_component: ComponentRule,
    /// Backbone and the paper's modules.
    pub network: NetworkConfig,
    /// Initial weights of the backbone; absent = random ones, which must then be trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFile>,
    /// Whether SAM's own weights (image encoder, prompt encoder, mask decoder) are trained as well. Default false:
    /// as in the paper they are frozen, and only adapters, generator and depth embeddings are trained.
    #[serde(default)]
    pub train_backbone: bool,
}

impl ModelConfig {
    /// The `model.yml` of the network, with `weights` and `adapters` for its files. All components are kept if that is
    /// still to be decided.
    pub fn bundle(&self, weights: WeightFile, adapters: Option<WeightFile>) -> BundleConfig {
        BundleConfig {
            name: self.name.clone(),
            classes: self.classes.clone(),
            codes: self.codes.clone(),
            modalities: self.modalities.clone(),
            slice_axis: self.slice_axis,
            spacing_mm: self.spacing_mm,
            patch: self.patch.clone(),
            normalisation: self.normalisation.clone(),
            largest_component: self.largest_component.given(),
            network: self.network.clone(),
            weights,
            adapters,
        }
    }

    /// [`ModelConfig::bundle`] without files, for building networks.
    pub fn without_files(&self) -> BundleConfig {
        self.bundle(WeightFile { file: PathBuf::new(), sha256: String::new() }, None)
    }
}

/// The source of the cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Dataset folder (MSD, nnU-Net, ACDC, Synapse or plain), file or `.txt` list.
    pub folder: PathBuf,
    /// Folder of the labels. Default: the dataset folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Value of each class in label files, in the order of `model.classes`, such as `[0, 7, 250]`. Default 0, 1, 2, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<u8>,
    /// Label values of voxels that nobody has annotated, such as `[255]`; these voxels are excluded from losses and
    /// metrics. Default none.
    #[serde(default, skip_serializing_if = "IgnoreValues::is_empty")]
    pub ignore: IgnoreValues,
    /// Which cases are for validation.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub split: Split,
    /// Regular expression whose first group is the patient in a case's name, such as `^(s[0-9]+)_`. All cases of a patient
    /// stand on one side of the split. Default: told by the names ([`patients()`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// Fraction of the windows that are centred on a voxel of a class other than the background, 0 to 1; the others
    /// lie anywhere. Default 0.33 (nnU-Net's `oversample_foreground_percent`).
    #[serde(default = "default_foreground")]
    pub foreground: f64,
    /// Whether labels and further modalities on another grid than the image are resampled to it. Default false: they
    /// are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resample_labels: bool,
    /// Memory for prepared cases, MiB. If they need more, the least recently used case is dropped and read again
    /// when needed. Default 4096.
    #[serde(default = "default_memory")]
    pub memory_mib: usize,
}

impl DataConfig {
    /// How to treat files on another grid than the image.
    pub fn regrid(&self) -> Regrid {
        if self.resample_labels { Regrid::Resample } else { Regrid::Refuse }
    }
}

fn default_foreground() -> f64 {
    0.33
}

fn default_memory() -> usize {
    4096
}

/// Threads that prepare windows while the network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefetchConfig {
    /// Number of threads, at least 1. It does not affect the windows. Default 1.
    pub threads: usize,
    /// Windows kept ready by each thread, at least 1. Default 8.
    pub queue: usize,
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self { threads: 1, queue: 8 }
    }
}

impl TrainingConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`TrainingError::Io`], [`TrainingError::Parse`] and [`TrainingError::Config`].
    pub fn open(path: &Path) -> Result<Self, TrainingError> {
        Self::parse(&fs::read_to_string(path).map_err(TrainingError::io(path))?, path)
    }

    /// Reads and checks the text of the file `path`, which need not exist.
    ///
    /// # Errors
    /// [`TrainingError::Parse`] and [`TrainingError::Config`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainingError> {
        let mut config: Self = serde_yaml::from_str(text)
            .map_err(|source| TrainingError::Parse { path: path.into(), source })?;
        config.check().map_err(|reason| TrainingError::Config { path: path.into(), reason })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for relative in [&mut config.data.folder, &mut config.output]
            .into_iter()
            .chain(&mut config.data.labels)
            .chain(&mut config.start_from)
            .chain(config.model.weights.as_mut().map(|weights| &mut weights.file))
        {
            let path = folder.join(&relative);
            *relative = std::path::absolute(&path).map_err(TrainingError::io(&path))?;
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let Self { model, data, prefetch, augmentation, .. } = self;
        model.without_files().check().map_err(|reason| format!("model: {reason}"))?;
        if model.network.generator == GeneratorKind::None {
            Err("model.network.generator is none: training needs a prompt generator".into())
        } else if model.weights.is_none() && !model.train_backbone {
            Err("model.weights is absent: set train_backbone, or name weights for the frozen backbone".into())
        } else if self.precision == Precision::Fp16 {
            Err("precision must be fp32, bf16 or auto: gradients leave the range of fp16".into())
        } else if (0..3).any(|axis| model.patch.mirror[axis] && !augmentation.mirror[axis]) {
            Err("model.patch.mirror: an axis that augmentation.mirror does not mirror is not learned".into())
        } else if !(0.0..=1.0).contains(&data.foreground) {
            Err("data.foreground must lie between 0 and 1".into())
        } else if prefetch.threads == 0 || prefetch.queue == 0 {
            Err("prefetch.threads and prefetch.queue must be at least 1".into())
        } else {
            // The nodes decide what `auto` is, and check again.
            let is_fp32 = self.precision == Precision::Fp32;
            let float_bytes = if is_fp32 { size_of::<f32>() } else { LEAST_FLOAT_BYTES };
            let mut bundle = model.without_files();
            // Prompts that are drawn may have masks which the model's own do not have.
            bundle.network.prompts.mask |= self.prompts.is_some_and(|prompts| prompts.mask > 0.0);
            bundle
                .check_edges(Dataflow::Training, float_bytes)
                .map_err(|reason| format!("model: {reason}"))?;
            self.check_values()?;
            self.schedule.check()?;
            self.optimiser.check()?;
            self.learning_rate.check()?;
            self.loss.check()?;
            self.augmentation.check()?;
            self.prompts.as_ref().map_or(Ok(()), PromptSampling::check)?;
            if let Some(rule) = &data.patient {
                patients::parse(rule)?;
            }
            data.split.check()
        }
    }

    /// The bundle from which the training starts, if any.
    ///
    /// # Errors
    /// [`TrainingError::Bundle`]; [`TrainingError::Config`] if the bundle's frozen weights are not the model's.
    pub fn check_start(&self) -> Result<Option<Bundle>, TrainingError> {
        let Some(folder) = &self.start_from else { return Ok(None) };
        let bundle = Bundle::open(folder)?;
        match &self.model.weights {
            Some(weights) if !self.model.train_backbone && weights.sha256 != bundle.config.weights.sha256 => {
                let reason = "was trained on other SAM weights than model.weights: these stay frozen, so that start_from \
                              needs the same";
                Err(TrainingError::Config { path: folder.clone(), reason: reason.into() })
            }
            _ => Ok(Some(bundle)),
        }
    }

    /// The configuration for a run that already has checkpoints: they contain all weights, and the bundle it started
    /// from may no longer exist.
    pub fn resumed(&self) -> Self {
        Self { start_from: None, ..self.clone() }
    }

    /// Value of each class in label files.
    pub fn label_values(&self) -> Vec<u8> {
        match self.data.values.as_slice() {
            [] => (0..=u8::MAX).take(self.model.classes.len()).collect(),
            values => values.to_vec(),
        }
    }

    fn check_values(&self) -> Result<(), String> {
        let (values, classes) = (self.label_values(), &self.model.classes);
        if values.len() != classes.len() {
            return Err(format!("data.values: {} values for {} classes", values.len(), classes.len()));
        } else if values[0] != 0 {
            return Err("data.values: the background, which comes first, must have 0".into());
        }
        for (place, value) in values.iter().enumerate() {
            if values[..place].contains(value) {
                return Err(format!("data.values: {value} stands for two classes"));
            } else if self.data.ignore.contains(*value) {
                return Err(format!("data.ignore: {value} is a class, `{}`", classes[place]));
            }
        }
        Ok(())
    }

    /// Slices, rows and columns of a window.
    pub fn patch(&self) -> [usize; 3] {
        let [height, width] = self.model.patch.plane.size();
        [self.model.patch.depth, height, width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> TrainingConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
        TrainingConfig::open(&path).unwrap()
    }

    #[test]
    fn shipped_configurations_are_valid() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")).unwrap() {
            let path = entry.unwrap().path();
            TrainingConfig::open(&path).unwrap();
        }
    }

    #[test]
    fn the_papers_schedule_is_the_papers() {
        let paper = shipped("paper.yml");
        let Schedule { epochs, iterations_per_epoch, generator_only_epochs, .. } = paper.schedule;
        assert_eq!((epochs, iterations_per_epoch, generator_only_epochs), (1000, 250, 200));
        assert_eq!(paper.learning_rate, LearningRate::Poly { initial: 0.01, exponent: 0.9 });
        assert_eq!(paper.loss, LossConfig::default());
    }

    #[test]
    fn a_bundle_of_other_sam_weights_is_no_start() {
        let mut config = shipped("hippocampus.yml");
        assert!(config.check_start().unwrap().is_none());
        config.start_from = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hippocampus"));
        assert!(config.check_start().unwrap().is_some());
        assert!(config.resumed().check_start().unwrap().is_none());
        config.model.weights.as_mut().unwrap().sha256 = "0".repeat(64);
        let error = config.check_start().unwrap_err().to_string();
        assert!(error.contains("models/hippocampus") && error.contains("other SAM weights"), "{error}");
    }

    #[test]
    fn unknown_fields_and_wrong_values_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let text = serde_yaml::to_string(&shipped("hippocampus.yml")).unwrap();
        let error = |text: &str| {
            let path = folder.path().join("config.yml");
            fs::write(&path, text).unwrap();
            TrainingConfig::open(&path).unwrap_err().to_string()
        };
        assert!(error(&format!("{text}\nepochs: 3\n")).contains("epochs"));
        assert!(error(&text.replace("foreground: 0.33", "foreground: 2.0")).contains("data.foreground"));
        assert!(error(&text.replace("epochs:", "epoch:")).contains("epoch"));
        let large = text.replace("image_size: 64", "image_size: 512");
        assert!(error(&large.replace("precision: auto", "precision: fp32")).contains("model: features: "));
        assert!(error(&large.replace("image_size: 512", "image_size: 1024")).contains("model: features: "));
    }
}
