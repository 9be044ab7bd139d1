//! `spsam`: the command for users. It starts dora on the dataflows with the right environment, and inspects files.
//! The dataflows remain the real interface.

mod ablate;
mod check;
mod compare;
mod dataflow;
mod dataset;
mod doctor;
mod evaluate;
mod infer;
mod init;
mod inspect;
mod label_maps;
mod plan;
mod progress;
mod send;
mod stream;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eyre::{Result, eyre};
use self_prompt_sam::runtime::exit_code;

#[derive(Parser)]
#[command(version, about = "Prompt-free, class-aware SAM segmentation of 3D medical images")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Segment volumes by running a dataflow.
    Infer(infer::Infer),
    /// Segment DICOM series while they arrive from a scanner, by running dataflows/stream.yml.
    Stream(stream::Stream),
    /// Send DICOM files, or a NIfTI volume as MR images, to a receiver, as a scanner does.
    Send(send::Send),
    /// Compare label maps with the truth: Dice, HD95, NSD.
    Evaluate(evaluate::Evaluate),
    /// Compare two results of the same cases: agreement by class, and a page with both.
    Compare(compare::Compare),
    /// Say what is installed on this machine and what is missing.
    Doctor,
    /// Show the contents of a dataset, a volume, a model bundle or a checkpoint, and what is wrong with it.
    Inspect(inspect::Inspect),
    /// Make a model bundle with untrained adapters, from which training can start.
    Init(init::Init),
    /// Write a training configuration for a dataset and a time.
    Plan(plan::PlanCommand),
    /// Train a model and make its bundle.
    Train(train::Train),
    /// Train the variants of the paper's ablation with the same seed and schedule, and write the table.
    Ablate(ablate::Ablate),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit_code(|| {
        self_prompt_sam::runtime::prepare()?;
        match cli.command {
            Command::Infer(infer) => infer.run(),
            Command::Stream(stream) => stream.run(),
            Command::Send(send) => send.run(),
            Command::Evaluate(evaluate) => evaluate.run(),
            Command::Compare(compare) => compare.run(),
            Command::Doctor => doctor::run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Init(init) => init.run(),
            Command::Plan(plan) => plan.run(),
            Command::Train(train) => train.run(),
            Command::Ablate(ablate) => ablate.run(),
        }
    })
}

/// The project's folder: `SPSAM_HOME`, or the nearest folder above this program that contains `dataflows/infer.yml`.
fn project() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("SPSAM_HOME") {
        return Ok(home.into());
    }
    let program = std::env::current_exe()?;
    let project = program.ancestors().find(|folder| folder.join("dataflows/infer.yml").exists());
    project.map(Into::into).ok_or_else(|| {
        eyre!("no dataflows/infer.yml above {}: set SPSAM_HOME to the project's folder", program.display())
    })
}

/// The dora program beside this one (in an installed folder), else the one that set-up has installed, else that of
/// `PATH`.
fn dora() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("dora")));
    let set_up = project().ok().map(|project| project.join(".spsam/bin/dora"));
    beside.into_iter().chain(set_up).find(|path| path.exists()).unwrap_or_else(|| "dora".into())
}
