//! What is sent: the images of DICOM files and NIfTI volumes, in the order of sending.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eyre::{Result, WrapErr, bail, eyre};
use ndarray::Axis;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use self_prompt_sam::bundle::SliceAxis;
use self_prompt_sam::dicom::{InSeries, MrSeries, Part10, coarsest_axis, is_dicom};
use self_prompt_sam::scanner::sender::{Context, Instance};
use self_prompt_sam::volume::Image;

/// Class of DICOMDIR, which is no image but a list of a medium's files (Media Storage Directory Storage).
const DIRECTORY: &str = "1.2.840.10008.1.3.10";
/// Endings of DICOM files. Files with these names must be DICOM files.
const DICOM: [&str; 2] = [".dcm", ".ima"];
const NIFTI: [&str; 6] = [".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"];

/// An image, or another DICOM file.
#[derive(Debug, Clone)]
pub enum Item {
    File(Part10),
    /// A slice of a volume.
    Slice(Arc<MrSeries>, usize),
}

impl Item {
    /// SOP class and transfer syntax.
    pub fn context(&self) -> Context {
        match self {
            Self::File(file) => {
                Context { class_uid: file.class_uid.clone(), transfer_syntax: file.transfer_syntax.clone() }
            }
            Self::Slice(series, _) => {
                let [class_uid, transfer_syntax] = series.kind().map(String::from);
                Context { class_uid, transfer_syntax }
            }
        }
    }

    pub fn instance(&self) -> Result<Instance> {
        match self {
            Self::File(file) => Ok(Instance::of_part10(file.clone())),
            Self::Slice(series, index) => {
                let image = series.image(*index).map_err(|reason| eyre!("slice {}: {reason}", index + 1))?;
                Ok(Instance::of_object(format!("slice {}", index + 1), image))
            }
        }
    }
}

/// The order of images.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub seed: Option<u64>,
    pub interleave: bool,
}

/// Series with their images.
pub struct Queue {
    series: Vec<Vec<Item>>,
}

impl Queue {
    /// The series of files, folders and volumes.
    ///
    /// # Errors
    /// A path without anything to send, or a file that cannot be read.
    pub fn find(paths: &[PathBuf], axis: Option<SliceAxis>) -> Result<Self> {
        let mut files = BTreeSet::new();
        let mut series = Vec::new();
        for path in paths {
            let about = fs::metadata(path).wrap_err_with(|| path.display().to_string())?;
            if about.is_dir() {
                let before = files.len();
                files_below(path, &mut files)?;
                if files.len() == before {
                    bail!("{}: no DICOM files", path.display());
                }
            } else if has_ending(path, &NIFTI) {
                series.push(slices(path, axis)?);
            } else {
                files.insert(path.clone());
            }
        }
        series.extend(by_series(&files)?);
        Ok(Self { series })
    }

    /// The same as new series, as far as they are made from volumes.
    pub fn again(&self) -> Self {
        let again = |items: &Vec<Item>| match items.first() {
            Some(Item::Slice(series, _)) => all_slices(series.again()),
            _ => items.clone(),
        };
        Self { series: self.series.iter().map(again).collect() }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.series.iter().map(Vec::len).sum()
    }

    /// Number of series.
    pub fn series(&self) -> usize {
        self.series.len()
    }

    /// The images of each series in the order of sending.
    pub fn by_series(&self, seed: Option<u64>) -> Vec<Vec<Item>> {
        let mut series = self.series.clone();
        if let Some(seed) = seed {
            let mut random = Pcg64Mcg::seed_from_u64(seed);
            series.iter_mut().for_each(|items| items.shuffle(&mut random));
        }
        series
    }

    /// The images in the order of sending.
    pub fn items(&self, order: &Order) -> Vec<Item> {
        let series = self.by_series(order.seed);
        if !order.interleave {
            return series.into_iter().flatten().collect();
        }
        let longest = series.iter().map(Vec::len).max().unwrap_or(0);
        let turn = |index: usize| series.iter().filter_map(move |items| items.get(index).cloned());
        (0..longest).flat_map(turn).collect()
    }
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    endings.iter().any(|ending| name.ends_with(ending))
}

/// DICOM files in a folder and its subfolders. Hidden files, and others without the prefix of DICOM files, are left out.
fn files_below(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).wrap_err_with(|| folder.display().to_string())? {
        let entry = entry.wrap_err_with(|| folder.display().to_string())?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        } else if entry.file_type().wrap_err_with(|| path.display().to_string())?.is_dir() {
            files_below(&path, files)?; // not through links, which may lead back
        } else if path.is_file()
            && (has_ending(&path, &DICOM) || is_dicom(&path).wrap_err_with(|| path.display().to_string())?)
        {
            files.insert(path);
        }
    }
    Ok(())
}

/// Files of the same series together, in the order of their instance numbers.
fn by_series(files: &BTreeSet<PathBuf>) -> Result<Vec<Vec<Item>>> {
    let mut found: Vec<(InSeries, Part10)> = Vec::with_capacity(files.len());
    for path in files {
        let file = Part10::open(path)?;
        if file.class_uid != DIRECTORY {
            found.push((file.in_series()?, file));
        }
    }
    if found.is_empty() && !files.is_empty() {
        bail!("only directories of media (DICOMDIR), which are not sent");
    }
    found.sort_by(|a, b| a.0.cmp(&b.0)); // stable: then by name
    let series = found.chunk_by(|a, b| a.0.series_uid == b.0.series_uid);
    Ok(series.map(|files| files.iter().map(|(_, file)| Item::File(file.clone())).collect()).collect())
}

/// The slices of a volume.
fn slices(path: &Path, axis: Option<SliceAxis>) -> Result<Vec<Item>> {
    let Image { header, voxels } = Image::read(path)?;
    if header.channels() != 1 {
        bail!("{}: {} volumes; one is expected", path.display(), header.channels());
    }
    let world_from_voxel = header.world_from_voxel();
    let axis = match axis {
        Some(axis) => nearest_axis(&world_from_voxel, axis),
        None => coarsest_axis(header.shape(), &world_from_voxel),
    };
    let voxels = voxels.index_axis_move(Axis(0), 0);
    let series = MrSeries::new(voxels, &world_from_voxel, axis);
    series.map(all_slices).map_err(|reason| eyre!("{}: {reason}", path.display()))
}

/// The stored axis (0 = x) that is nearest to an anatomical one.
fn nearest_axis(world_from_voxel: &[[f64; 4]; 3], axis: SliceAxis) -> usize {
    let row = world_from_voxel[axis.canonical()];
    let size = |column: usize| world_from_voxel.iter().map(|row| row[column].powi(2)).sum::<f64>().sqrt();
    let along = |column: usize| row[column].abs() / size(column).max(f64::MIN_POSITIVE);
    (0..3).max_by(|&a, &b| along(a).total_cmp(&along(b))).unwrap_or(2)
}

fn all_slices(series: MrSeries) -> Vec<Item> {
    let series = Arc::new(series);
    (0..series.len()).map(|index| Item::Slice(series.clone(), index)).collect()
}
