//! One case: the contents of its files, and their problems.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array3;
use serde::Serialize;

use super::{Expected, Problem, Severity};
use crate::volume::{
    CaseFiles, Header, Image, TargetGrid, VolumeError, check_grid, orientation_code, read_labels_on,
};

/// Number of voxels, spread evenly, that represent a channel in percentiles.
const SAMPLE: usize = 10_000;
/// Most values listed in one line.
const MOST_VALUES: usize = 10;

/// The contents of a case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseFacts {
    /// Its name.
    pub case: String,
    /// Number of voxels along the stored axes.
    pub shape: [usize; 3],
    /// Voxel sizes along them, mm.
    pub spacing_mm: [f64; 3],
    /// Orientation of the stored axes in nibabel's notation (`aff2axcodes`): `RAS`, `LPS`, …
    pub orientation: String,
    /// Each channel.
    pub channels: Vec<Intensities>,
    /// Number of voxels of each label value; absent without labels.
    pub labels: Option<BTreeMap<u8, u64>>,
}

/// Intensities of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intensities {
    /// The smallest value.
    pub min: f32,
    /// The largest value.
    pub max: f32,
}

/// A case, with samples of its voxels for the dataset's statistics.
pub(super) struct Examined {
    pub facts: Option<CaseFacts>,
    pub problems: Vec<Problem>,
    /// Sampled values of each channel.
    pub sample: Vec<Vec<f32>>,
    /// Sampled values of each channel within the classes.
    pub foreground: Vec<Vec<f32>>,
    /// Whether the labels are on another grid than the image.
    pub is_off_grid: bool,
}

/// Reads a case.
pub(super) fn examine(files: &CaseFiles, expected: &Expected) -> Examined {
    let mut case = Examining { files, expected, problems: Vec::new(), is_off_grid: false };
    let read = case.read();
    let Examining { problems, is_off_grid, .. } = case;
    let (facts, sample, foreground) = match read {
        Some(Read { facts, sample, foreground }) => (Some(facts), sample, foreground),
        None => (None, Vec::new(), Vec::new()),
    };
    Examined { facts, problems, sample, foreground, is_off_grid }
}

struct Examining<'a> {
    files: &'a CaseFiles,
    expected: &'a Expected,
    problems: Vec<Problem>,
    is_off_grid: bool,
}

struct Read {
    facts: CaseFacts,
    sample: Vec<Vec<f32>>,
    foreground: Vec<Vec<f32>>,
}

impl Examining<'_> {
    fn say(&mut self, severity: Severity, text: String) {
        self.problems.push(Problem::new(severity, Some(&self.files.case_id), text));
    }

    /// Returns `None` if an image cannot be read, which is then among the problems.
    fn read(&mut self) -> Option<Read> {
        let first = self.files.images.first()?;
        let header = match Header::read(first) {
            Ok(header) => header,
            Err(error) => {
                self.say(Severity::Error, error.to_string());
                return None;
            }
        };
        let labels = self.labels(&header);
        let foreground = labels.as_ref().map(|labels| self.foreground(labels));
        let mut read = Read {
            facts: CaseFacts {
                case: self.files.case_id.clone(),
                shape: header.shape(),
                spacing_mm: header.spacing_mm(),
                orientation: orientation_code(&header.world_from_voxel()),
                channels: Vec::new(),
                labels: labels.as_ref().map(counts),
            },
            sample: Vec::new(),
            foreground: Vec::new(),
        };
        let mut is_readable = true;
        for path in &self.files.images {
            is_readable &= self.image(path, &header, foreground.as_deref(), &mut read);
        }
        if is_readable {
            self.modalities(read.facts.channels.len());
        }
        is_readable.then_some(read)
    }

    /// Reads an image; returns false if that fails.
    fn image(&mut self, path: &Path, first: &Header, foreground: Option<&[usize]>, read: &mut Read) -> bool {
        let (image, non_finite) = match Image::read_counting(path) {
            Ok(read) => read,
            Err(error) => {
                self.say(Severity::Error, error.to_string());
                return false;
            }
        };
        self.same_grid(&image.header, first);
        if non_finite > 0 {
            let what = "voxels are NaN or infinite: nothing should be learned from them";
            self.say(Severity::Error, format!("{}: {non_finite} {what}", path.display()));
        }
        for voxels in image.voxels.outer_iter() {
            // [z, y, x] in memory, like the labels from which `foreground` comes.
            let Some(voxels) = voxels.as_slice_memory_order() else { continue };
            let (min, max) =
                voxels.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
            if min == max {
                let text = format!("{}: all voxels are {min}", path.display());
                self.say(Severity::Warning, text);
            }
            read.facts.channels.push(Intensities { min, max });
            let step = voxels.len().div_ceil(SAMPLE).max(1);
            read.sample.push(voxels.iter().copied().step_by(step).collect());
            let within =
                foreground.unwrap_or_default().iter().filter_map(|&index| voxels.get(index).copied());
            read.foreground.push(within.collect());
        }
        true
    }

    fn same_grid(&mut self, header: &Header, first: &Header) {
        if header.path() == first.path() {
            return;
        }
        if let Err(error) = check_grid(header, &TargetGrid::from(first), self.expected.regrid) {
            self.say(Severity::Error, error.to_string());
        }
    }

    fn modalities(&mut self, found: usize) {
        if let Some(expected) = self.expected.modalities.filter(|&expected| expected != found) {
            let path = self.files.images[0].clone();
            self.say(Severity::Error, VolumeError::ModalityCount { path, found, expected }.to_string());
        }
    }

    /// The labels on the image's grid.
    fn labels(&mut self, image: &Header) -> Option<Array3<u8>> {
        let files = self.files.labels.as_ref()?;
        let (target, regrid) = (TargetGrid::from(image), self.expected.regrid);
        let of_image = orientation_code(&image.world_from_voxel());
        for path in files.files() {
            let Ok(header) = Header::read(path) else { continue }; // said below
            let own = orientation_code(&header.world_from_voxel());
            if own != of_image && check_grid(&header, &target, regrid).is_ok() {
                let (path, image) = (path.display(), image.path().display());
                let text =
                    format!("{path}: stored as {own}, {image} as {of_image}: reordered by their affines");
                self.say(Severity::Note, text);
            }
        }
        match files.read(|path| read_labels_on(path, &target, regrid)) {
            Ok(labels) => {
                self.values(files.path(), &labels);
                Some(labels)
            }
            Err(error) => {
                self.is_off_grid = matches!(error, VolumeError::OtherGrid { .. });
                self.say(Severity::Error, error.to_string());
                None
            }
        }
    }

    fn values(&mut self, path: &Path, labels: &Array3<u8>) {
        let counts = counts(labels);
        let Expected { classes, ignore, .. } = self.expected;
        let unknown: Vec<String> = counts
            .iter()
            .filter(|(value, _)| {
                !classes.is_empty() && !classes.contains_key(*value) && !ignore.contains(**value)
            })
            .map(|(value, voxels)| format!("label {value} ({voxels} voxels)"))
            .collect();
        if !unknown.is_empty() {
            let more = match unknown.len().saturating_sub(MOST_VALUES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let known: Vec<String> = classes.iter().map(|(value, name)| format!("{value} {name}")).collect();
            let shown = &unknown[..unknown.len().min(MOST_VALUES)];
            let text = format!(
                "{}: {}{more} stands for no class (classes: {})",
                path.display(),
                shown.join(", "),
                known.join(", ")
            );
            self.say(Severity::Error, text);
        }
        if counts.keys().all(|value| *value == 0 || ignore.contains(*value)) {
            self.say(
                Severity::Warning,
                format!("{}: no voxel is of a class, all are background", path.display()),
            );
        }
    }

    /// Memory indices of sampled voxels within classes.
    fn foreground(&self, labels: &Array3<u8>) -> Vec<usize> {
        let Some(labels) = labels.as_slice_memory_order() else { return Vec::new() };
        let is_class = |value: u8| value != 0 && !self.expected.ignore.contains(value);
        let count = labels.iter().filter(|&&value| is_class(value)).count();
        let within = labels.iter().enumerate().filter(|&(_, &value)| is_class(value)).map(|(index, _)| index);
        within.step_by(count.div_ceil(SAMPLE).max(1)).collect()
    }
}

/// Number of voxels of each value that occurs.
fn counts(labels: &Array3<u8>) -> BTreeMap<u8, u64> {
    let mut counts = [0; 256];
    labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    (0..=u8::MAX).zip(counts).filter(|(_, count)| *count > 0).collect()
}
