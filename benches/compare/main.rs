//! Our side of `benches/compare`, and the command that starts the comparison: `cargo bench --bench compare --
//! [options of compare.py]`.
//!
//! With the argument `serve` (used by compare.py) it reads one request per line from stdin and answers each with one
//! line on stdout, both JSON. `SPSAM_DEVICE` and `SPSAM_THREADS` apply as for the nodes.

mod request;
#[path = "../support/mod.rs"]
mod support;
mod task;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use eyre::{Result, WrapErr, bail, eyre};
use self_prompt_sam::runtime::{device, exit_code, prepare};
use serde_json::{Value, json};

use request::Request;
use task::Task;

fn main() -> ExitCode {
    // cargo bench adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    exit_code(|| {
        prepare()?;
        if arguments.first().is_some_and(|first| first == "serve") { serve() } else { compare(&arguments) }
    })
}

/// Runs compare.py with this program as our side.
fn compare(arguments: &[String]) -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("SPSAM_PYTHON")
        .map_or_else(|| project.join(".spsam/venv/bin/python"), PathBuf::from);
    let status = Command::new(&python)
        .arg(project.join("benches/compare/compare.py"))
        .arg("--ours")
        .arg(std::env::current_exe()?)
        .args(arguments)
        .status()
        .wrap_err_with(|| format!("{}: missing; run `cargo xtask setup --test`", python.display()))?;
    if status.success() { Ok(()) } else { bail!("compare.py: {status}") }
}

fn serve() -> Result<()> {
    let device = device()?;
    let mut task: Option<Task> = None;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let nothing = || eyre!("no network is loaded");
        let answer: Value = match request {
            Request::Load(load) => {
                let (loaded, precision) = Task::load(&load, device)?;
                task = Some(loaded);
                json!({ "precision": precision.name() })
            }
            Request::Run => json!({ "seconds": task.as_mut().ok_or_else(nothing)?.run()? }),
            Request::Save { output } => {
                task.as_ref().ok_or_else(nothing)?.save(&output)?;
                json!({})
            }
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}
