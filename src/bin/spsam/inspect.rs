//! `spsam inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Result, bail};
use self_prompt_sam::bundle::Bundle;
use self_prompt_sam::dicom::{is_dicom, locate};
use self_prompt_sam::volume::{Image, names_of_classes};

use super::dataset::Dataset;
use self_prompt_sam::weights::list;

#[derive(Args)]
pub struct Inspect {
    /// Dataset (folder, dataset.json or .txt list), volume (.nii, .nii.gz, DICOM), model bundle (folder or model.yml) or checkpoint
    /// (.pth, .pt, .safetensors).
    path: PathBuf,
    /// List every tensor of a checkpoint.
    #[arg(long)]
    keys: bool,
    #[command(flatten, next_help_heading = "Options for datasets")]
    dataset: Dataset,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if self.path.join("model.yml").is_file() || is(&[".yml", ".yaml"]) {
            bundle(&self.path)
        } else if self.path.is_dir() || name == "dataset.json" || is(&[".txt"]) {
            self.dataset.inspect(&self.path)
        } else if is(&[".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"])
            || is_dicom_volume(&self.path)
        {
            volume(&self.path)
        } else if is(&[".pth", ".pt", ".safetensors"]) {
            checkpoint(&self.path, self.keys)
        } else {
            bail!(
                "{}: neither a dataset, a volume, a model bundle nor a checkpoint by its name",
                self.path.display()
            )
        }
    }
}

/// A DICOM file, or one of the volumes of a folder.
fn is_dicom_volume(path: &Path) -> bool {
    is_dicom(path).unwrap_or(false) || (!path.exists() && !matches!(locate(path), Ok(None)))
}

fn bundle(path: &Path) -> Result<()> {
    let bundle = Bundle::open(path)?;
    print!("{}", serde_yaml::to_string(&bundle.config)?);
    for weights in std::iter::once(&bundle.config.weights).chain(&bundle.config.adapters) {
        let file = bundle.path_of(weights);
        self_prompt_sam::weights::check_sha256(&file, &weights.sha256)?;
        println!("# {}: sha256 is right", file.display());
    }
    Ok(())
}

fn checkpoint(path: &Path, keys: bool) -> Result<()> {
    let tensors = list(path)?;
    let values: i64 = tensors.iter().map(|tensor| tensor.shape.iter().product::<i64>()).sum();
    println!("{}: {} tensors, {values} values", path.display(), tensors.len());
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &tensors {
        if keys {
            println!("{} {:?} {}", tensor.key, tensor.shape, tensor.kind);
        }
        *parts.entry(tensor.key.split('.').next().unwrap_or_default()).or_default() += 1;
    }
    for (part, count) in parts {
        println!("{part}: {count} tensors");
    }
    Ok(())
}

fn volume(path: &Path) -> Result<()> {
    let Image { header, voxels } = Image::read(path)?;
    let [x, y, z] = header.shape();
    // Headers hold float32, and units may have been converted: further digits are rounding errors.
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    let [dx, dy, dz] = header.spacing_mm().map(rounded);
    let (low, high) = voxels.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    println!("{}: {x} x {y} x {z} voxels, {} channels", path.display(), header.channels());
    println!("voxel size {dx} x {dy} x {dz} mm, values {low} to {high}");
    for row in header.world_from_voxel() {
        println!("world from voxel {:?}", row.map(rounded));
    }
    let millilitres = header.spacing_mm().iter().product::<f64>() / 1000.0;
    for (value, name) in names_of_classes(&header) {
        let count = voxels.iter().filter(|&&voxel| voxel == f32::from(value)).count();
        println!("{name}: {:.2} ml", count as f64 * millilitres);
    }
    Ok(())
}
