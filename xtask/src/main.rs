//! `cargo xtask`: set-up, demo and tests of the project, each with one command.
//!
//! Everything is put into `.spsam/` in the project folder; removing that folder undoes the set-up.

mod asset;
mod demo;
mod demo_live;
mod doctor;
mod install;
mod process;
mod project;
mod python;
mod requirements;
mod setup;
mod suite;
mod tally;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

use crate::project::Project;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set-up, demo and tests of self-prompt-sam"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Python environment, libtorch, the dora CLI, the weights and the sample volume into .spsam/
    ///
    /// Python 3.11 to 3.14 is looked up on PATH as python3, python3.14, …; SPSAM_PYTHON3 names another one. If
    /// LIBTORCH is set, that libtorch 2.11 is used. pip uses its usual settings.
    Setup {
        /// Also install the reference packages that the tests need
        #[arg(long)]
        test: bool,
    },
    /// Set up, build, and segment both hippocampi of the MNI152 head, without prompts; with --live while it arrives
    Demo(demo::DemoArgs),
    /// Set up, then check formatting, lints, documentation, tests and dataflow files
    Test(suite::TestArgs),
    /// Set up, build, and make a movable folder with everything that a run needs
    Install(install::InstallArgs),
    /// Say what is installed, what is missing and how to get it; exits 1 if something required is missing
    Doctor,
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> eyre::Result<ExitCode> {
    let project = Project::find()?;
    match task {
        Task::Setup { test: false } => setup::set_up(&project, setup::Purpose::Demo)?,
        Task::Setup { test: true } => setup::set_up(&project, setup::Purpose::Test)?,
        Task::Demo(args) if args.live => demo_live::demo(&project, &args)?,
        Task::Demo(args) => demo::demo(&project, &args)?,
        Task::Test(args) => suite::test(&project, &args)?,
        Task::Install(args) => install::install(&project, &args)?,
        Task::Doctor => return doctor::doctor(&project),
    }
    Ok(ExitCode::SUCCESS)
}
