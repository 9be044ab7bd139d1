//! `spsam train`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use eyre::{Result, WrapErr, bail};
use self_prompt_sam::network::segmenter::Start;
use self_prompt_sam::runtime::compute_in;
use self_prompt_sam::runtime::training::STOP_FILE;
use self_prompt_sam::training::{self, Outcome, TrainingConfig};

use super::check;
use super::dataflow::{Dataflow, Ended, Flow, LOG, signals_to_end};
use super::dataset::checked;
use super::infer::failed;
use super::plan::{self, PlanOptions};

#[derive(Args)]
pub struct Train {
    /// Configuration of the run, such as configs/hippocampus.yml. Without it, a training on --data for --hours is planned
    /// (`spsam plan`), and its plan.yml is in the output folder.
    #[arg(long, required_unless_present = "data")]
    config: Option<PathBuf>,
    /// Hours for the training on this machine, without --config. A few steps are timed to plan it.
    #[arg(long, default_value_t = 4.0, conflicts_with = "config")]
    hours: f64,
    /// Validation fold, from 0, without --config.
    #[arg(long, default_value_t = 0, conflicts_with = "config")]
    fold: usize,
    /// Number of folds, without --config.
    #[arg(long, default_value_t = 5, conflicts_with = "config")]
    folds: usize,
    /// Resume from the newest checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Folder for checkpoints, curves and the bundle, instead of the configuration's.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Dataset folder, instead of the configuration's.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Train in this process instead of the dataflow; the result is the same.
    #[arg(long, conflicts_with = "dataflow")]
    in_process: bool,
    /// Another dataflow, with your own nodes in it. Default: dataflows/train.yml.
    #[arg(long)]
    dataflow: Option<PathBuf>,
    /// Also show the log of dora and the nodes, which is in spsam.log in the output folder in any case.
    #[arg(long, short)]
    verbose: bool,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let absolute = |path: PathBuf| std::path::absolute(path).wrap_err("a path of the command line");
        let mut config = TrainingConfig::open(&self.configuration()?)?;
        if let Some(output) = self.output.clone() {
            config.output = absolute(output)?;
        }
        if let Some(data) = self.data.clone() {
            config.data.folder = absolute(data)?;
        }
        if !self.resume {
            config.check_is_new()?;
            announce_start(&config)?;
        }
        // Checked before anything starts, so that faults of a dataset are reported at once.
        let cases = checked(&config)?;
        if self.resume {
            config.check_resumed(Some(&cases))?;
        }
        if self.in_process { in_process(&config, self.resume) } else { self.dataflow(&config) }
    }

    /// The file of the configuration; planned now if there is none yet.
    fn configuration(&self) -> Result<PathBuf> {
        let data = match (&self.config, &self.data) {
            (Some(config), _) => return Ok(config.clone()),
            (None, Some(data)) => data,
            (None, None) => bail!("--config or --data is needed"),
        };
        let output = std::path::absolute(self.output.as_deref().unwrap_or(Path::new(plan::OUTPUT)))?;
        let file = output.join("plan.yml");
        if !(self.resume && file.exists()) {
            let options = PlanOptions::new(self.hours, [self.fold, self.folds]);
            plan::write(data, &options, &output, &file)?;
            println!("{}: the plan of this training", file.display());
        }
        Ok(file)
    }

    fn dataflow(&self, config: &TrainingConfig) -> Result<()> {
        let flow = match &self.dataflow {
            Some(path) => Flow::Custom(path.clone()),
            None => Flow::Own(super::project()?.join("dataflows/train.yml")),
        };
        let file = config.output.join("config.yml");
        check::output(&config.output)?;
        config.write(&file)?;
        let stop_file = config.output.join(STOP_FILE);
        let _ = fs::remove_file(&stop_file); // left by an earlier run
        let resume = if self.resume { "1" } else { "0" };
        let settings = [
            ("SPSAM_TRAINING", file.into()),
            ("SPSAM_RESUME", resume.into()),
            ("SPSAM_DATA_CHECKED", "1".into()),
        ];
        let ended = Dataflow::start(&flow, &settings, &config.output, LOG, self.verbose)?.wait(|_| {
            // Do not stop dora, which would end its nodes before the checkpoint is written.
            fs::write(&stop_file, "").wrap_err_with(|| stop_file.display().to_string())?;
            Ok("stopping after this step with a checkpoint")
        })?;
        let stopped = matches!(ended, Ended::Stopped(_));
        match ended {
            Ended::Succeeded => {}
            Ended::Stopped(status) if status.success() => {}
            Ended::Stopped(_) | Ended::AtOnce => {
                bail!("stopped at once; --resume goes on from the last checkpoint")
            }
            Ended::Failed(failure) => {
                eprintln!("--resume goes on from the last checkpoint");
                return Err(failed(failure));
            }
        }
        report(config, stopped)
    }
}

/// Says what the training takes over from the bundle in `start_from`.
fn announce_start(config: &TrainingConfig) -> Result<()> {
    if let Some(bundle) = config.check_start()? {
        let start = Start { old: &bundle.config, new: &config.model.without_files() };
        println!("starts from the weights of {}", bundle.folder.display());
        start.lines().iter().for_each(|line| println!("  {line}"));
    }
    Ok(())
}

fn in_process(config: &TrainingConfig, resume: bool) -> Result<()> {
    let compute = compute_in(config.precision)?;
    tracing::info!("{:?}, {}", compute.device, compute.precision().name());
    let outcome = training::run(config, compute, resume, &*stop_on_signal()?)?;
    report(config, matches!(outcome, Outcome::Stopped { .. }))
}

fn report(config: &TrainingConfig, stopped: bool) -> Result<()> {
    let output = config.output.display();
    if stopped {
        println!("stopped; --resume goes on from the checkpoint in {output}");
    } else {
        println!("bundle, checkpoints and curves (training.html) are in {output}");
    }
    Ok(())
}

/// A flag that the first Ctrl-C, SIGTERM or SIGHUP sets. The second ends the program at once.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in signals_to_end() {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .wrap_err("installing the signal handler")?;
    }
    Ok(stop)
}
