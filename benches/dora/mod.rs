//! Shared by the benches that run dora: paths, description of the machine, figures with their spread.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use eyre::{Result, WrapErr, bail};
use self_prompt_sam::runtime::forget_package;
use serde::Serialize;

/// The folder of this project.
pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The dora command installed by set-up, else that of `PATH`.
pub fn dora() -> PathBuf {
    let installed = project().join(".spsam/bin/dora");
    if installed.exists() { installed } else { "dora".into() }
}

/// Runs `dora run` on a dataflow and returns its wall-clock time, seconds.
///
/// # Errors
/// If the dataflow fails; the error has the end of its log.
pub fn run_dataflow(dataflow: &Path, settings: &[(&str, String)]) -> Result<f64> {
    let mut command = Command::new(dora());
    forget_package(&mut command);
    command.arg("run").arg(dataflow).envs(settings.iter().map(|(name, value)| (name, value)));
    run(command.stdin(Stdio::null())).map(|(seconds, _)| seconds)
}

/// Runs a command to its end: wall-clock seconds and stdout.
///
/// # Errors
/// If the command cannot be started or fails; the error has the end of its output.
pub fn run(command: &mut Command) -> Result<(f64, String)> {
    let clock = Instant::now();
    let output = command.output().wrap_err_with(|| format!("{command:?}"))?;
    let seconds = clock.elapsed().as_secs_f64();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok((seconds, stdout));
    }
    let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = said.lines().collect();
    bail!("{command:?} failed:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
}

/// Median and extremes of some values.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of the given values; NaN if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 };
        Self { median, min: at(0), max: at(sorted.len().wrapping_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.min, self.max)
    }
}

/// Processor and number of cores, for the record.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
}

impl Machine {
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Writes the figures as JSON to `path`, or to stdout.
///
/// # Errors
/// A file that cannot be written.
pub fn write_json(figures: &impl Serialize, path: Option<&Path>) -> Result<()> {
    let text = serde_json::to_string_pretty(figures)?;
    match path {
        Some(path) => fs::write(path, text + "\n").wrap_err_with(|| path.display().to_string()),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}
