//! `spsam train`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use eyre::{Result, WrapErr};
use self_prompt_sam::runtime::compute_in;
use self_prompt_sam::training::{self, Outcome, TrainingConfig};
use signal_hook::consts::{SIGINT, SIGTERM};

#[derive(Args)]
pub struct Train {
    /// Configuration of the run, such as configs/hippocampus.yml.
    #[arg(long)]
    config: PathBuf,
    /// Go on from the newest checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Folder of checkpoints, curves and the bundle, in place of the configuration's.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Dataset folder, in place of the configuration's.
    #[arg(long)]
    data: Option<PathBuf>,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let mut config = TrainingConfig::open(&self.config)?;
        if let Some(output) = self.output {
            config.output = output;
        }
        if let Some(data) = self.data {
            config.data.folder = data;
        }
        let compute = compute_in(config.precision)?;
        tracing::info!("{:?}, {}", compute.device, compute.precision().name());
        let stop = stop_on_signal()?;
        match training::run(&config, compute, self.resume, &stop)? {
            Outcome::Finished { bundle, best } => {
                let dice = best.map_or(String::new(), |best| format!(", Dice {:.4}", best.dice));
                println!("{}: trained `{}`{dice}", bundle.display(), config.model.name);
                println!("curves are in {}", config.output.join("training.html").display());
            }
            Outcome::Stopped { step } => {
                println!("stopped after step {step}; --resume goes on from there");
            }
        }
        Ok(())
    }
}

/// A flag that the first Ctrl-C or SIGTERM sets; the second ends the program at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .wrap_err("installing the signal handler")?;
    }
    Ok(stop)
}
