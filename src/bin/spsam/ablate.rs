//! `spsam ablate`.

use std::path::PathBuf;

use clap::Args;
use eyre::Result;
use self_prompt_sam::runtime::compute_in;
use self_prompt_sam::training::{TrainingConfig, Variant, ablate, table};

use super::dataset::checked;
use super::train::stop_on_signal;

#[derive(Args)]
pub struct Ablate {
    /// Configuration with the data, seed and schedule of all variants, such as configs/ablation.yml.
    #[arg(long)]
    config: PathBuf,
    /// Rows of the paper's Table 3.
    #[arg(long, value_delimiter = ',', default_value = "S2,S3,S6,S7,S8,S9")]
    variants: Vec<Variant>,
    /// Folder for the variants' runs and the table, instead of the configuration's.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Dataset folder, instead of the configuration's.
    #[arg(long)]
    data: Option<PathBuf>,
}

impl Ablate {
    pub fn run(self) -> Result<()> {
        let mut config = TrainingConfig::open(&self.config)?;
        if let Some(output) = self.output {
            config.output = std::path::absolute(output)?;
        }
        if let Some(data) = self.data {
            config.data.folder = std::path::absolute(data)?;
        }
        checked(&config)?;
        let compute = compute_in(config.precision)?;
        tracing::info!("{:?}, {}", compute.device, compute.precision().name());
        match ablate(&config, &self.variants, compute, &*stop_on_signal()?)? {
            Some(rows) => println!(
                "{}\nablation.md, ablation.json and the runs are in {}",
                table(&rows),
                config.output.display()
            ),
            None => println!("stopped; the same command continues from there"),
        }
        Ok(())
    }
}
