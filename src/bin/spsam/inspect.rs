//! `spsam inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Result, bail};
use self_prompt_sam::bundle::Bundle;
use self_prompt_sam::volume::Image;
use self_prompt_sam::weights::list;

#[derive(Args)]
pub struct Inspect {
    /// Checkpoint (.pth, .safetensors), volume (.nii, .nii.gz) or model bundle (folder or model.yml).
    path: PathBuf,
    /// List every tensor of a checkpoint.
    #[arg(long)]
    keys: bool,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if self.path.is_dir() || name.ends_with(".yml") || name.ends_with(".yaml") {
            bundle(&self.path)
        } else if name.ends_with(".nii") || name.ends_with(".nii.gz") {
            volume(&self.path)
        } else if name.ends_with(".pth") || name.ends_with(".pt") || name.ends_with(".safetensors") {
            checkpoint(&self.path, self.keys)
        } else {
            bail!("{}: neither a checkpoint, a volume nor a model bundle by its name", self.path.display())
        }
    }
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
    // Headers hold float32, and a unit may have been converted: further digits are rounding.
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    let [dx, dy, dz] = header.spacing_mm().map(rounded);
    let (low, high) = voxels.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    println!("{}: {x} x {y} x {z} voxels, {} channels", path.display(), header.channels());
    println!("voxel size {dx} x {dy} x {dz} mm, values {low} to {high}");
    for row in header.world_from_voxel() {
        println!("world from voxel {:?}", row.map(rounded));
    }
    Ok(())
}
