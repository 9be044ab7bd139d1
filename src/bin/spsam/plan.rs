//! `spsam plan`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Result, WrapErr, bail, eyre};
use self_prompt_sam::files::write_atomically;
use self_prompt_sam::runtime::compute_in;
use self_prompt_sam::training::{Plan, PlanRequest, TrainingConfig, seconds_per_step};
use tch::Device;

use super::dataset::Dataset;

/// Folder for the results of a training that is planned.
pub const OUTPUT: &str = "output/train";

#[derive(Args)]
pub struct PlanCommand {
    /// Dataset folder (MSD, nnU-Net, ACDC, Synapse or plain), dataset.json or .txt list.
    path: PathBuf,
    #[command(flatten)]
    options: PlanOptions,
    /// File for the configuration. Default: plan.yml in the folder given by --output.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Folder for the results of the training.
    #[arg(long, default_value = OUTPUT)]
    output: PathBuf,
}

#[derive(Args)]
pub struct PlanOptions {
    /// Folder of the labels. Default: the dataset's own.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Hours for the training on this machine. A few steps are timed to plan it, which takes a minute.
    #[arg(long, default_value_t = 4.0)]
    hours: f64,
    /// Validation fold, from 0.
    #[arg(long, default_value_t = 0)]
    fold: usize,
    /// Number of folds.
    #[arg(long, default_value_t = 5)]
    folds: usize,
    /// Name of the model. Default: the name of the dataset's folder.
    #[arg(long)]
    name: Option<String>,
}

impl PlanOptions {
    /// For a time and a fold of several.
    pub fn new(hours: f64, [fold, folds]: [usize; 2]) -> Self {
        Self { labels: None, hours, fold, folds, name: None }
    }
}

impl PlanCommand {
    pub fn run(self) -> Result<()> {
        let output = std::path::absolute(&self.output)?;
        let file = self.file.clone().unwrap_or_else(|| output.join("plan.yml"));
        write(&self.path, &self.options, &output, &file)?;
        println!("{} is ready: spsam train --config {}", file.display(), file.display());
        Ok(())
    }
}

/// Plans a training on `dataset` and writes its configuration to `file`.
pub fn write(dataset: &Path, options: &PlanOptions, output: &Path, file: &Path) -> Result<()> {
    if !(options.hours > 0.0 && options.hours.is_finite()) {
        bail!("--hours {}: expected a time above 0", options.hours);
    }
    if file.exists() {
        bail!("{}: exists already; remove it, or choose another file", file.display());
    }
    let dataset = std::path::absolute(dataset)?;
    let (survey, modalities) = Dataset::of(options.labels.clone()).survey_of(&dataset)?;
    if survey.errors() > 0 {
        println!("{survey}");
        bail!("{}: {} errors in the dataset", dataset.display(), survey.errors());
    }
    let device = compute_in(Default::default())?.device;
    let request = PlanRequest {
        name: options.name.clone().unwrap_or_else(|| name_of(&dataset)),
        modalities,
        weights: super::project()?.join(".spsam/weights/lite_medsam.pth"),
        labels: options.labels.as_ref().map(std::path::absolute).transpose()?,
        output: output.into(),
        fold: [options.fold, options.folds],
        on_gpu: device != Device::Cpu,
    };
    let plan = Plan::of(&survey, &request).map_err(|reason| eyre!(reason))?;
    let seconds = time(&plan.configuration(options.hours, 0.0))?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).wrap_err_with(|| folder.display().to_string())?;
    }
    write_atomically(file, |to| to.write_all(plan.configuration(options.hours, seconds).as_bytes()))
        .wrap_err_with(|| file.display().to_string())?;
    TrainingConfig::open(file)?;
    Ok(())
}

/// Seconds of a step with a configuration.
fn time(configuration: &str) -> Result<f64> {
    let config = TrainingConfig::parse(configuration, Path::new("plan.yml"))?;
    tracing::info!("timing a few steps");
    Ok(seconds_per_step(&config, compute_in(config.precision)?)?)
}

fn name_of(dataset: &Path) -> String {
    let folder = if dataset.is_dir() { Some(dataset) } else { dataset.parent() };
    let name = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
}
