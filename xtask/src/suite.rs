//! The tests: formatting, lints, documentation, build, cargo's tests and the dataflow files, in this order.

use clap::Args;
use eyre::{WrapErr, bail};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::process;
use crate::project::Project;
use crate::setup::{self, Purpose};
use crate::tally::{SKIP_LOG, Tally};

/// Options of the tests.
#[derive(Args)]
pub struct TestArgs {
    /// Also run long tests: full-size parity, soak runs, kill campaigns (sets SPSAM_FULL=1)
    #[arg(long)]
    full: bool,
    /// Passed to cargo test: names of tests, then `--` and options of the test programs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

/// Runs all steps; stops at the first that fails.
///
/// # Errors
/// If a step fails; the message names the step and its command.
pub fn test(project: &Project, args: &TestArgs) -> eyre::Result<()> {
    let mut report = Report::default();
    report.step("set-up", || setup::set_up(project, Purpose::Test))?;
    report.step("formatting", || process::run(project.cargo().args(["fmt", "--all", "--check"])))?;
    report.step("lints", || process::run(&mut lints(project)))?;
    report.step("documentation", || process::run(&mut documentation(project)))?;
    report.step("build", || process::run(project.cargo().args(["build", "--release", "--workspace"])))?;
    let tally = report.step("tests", || cargo_test(project, args))?;
    report.step("dataflows", || validate(project))?;
    report.print();
    println!("{tally}");
    Ok(())
}

fn lints(project: &Project) -> Command {
    let mut command = project.cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"]);
    command
}

/// Reuses the dependencies' metadata from the lints step.
fn documentation(project: &Project) -> Command {
    let mut command = project.cargo();
    command.args(["doc", "--workspace", "--no-deps", "--release"]).env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// Time of each step.
#[derive(Default)]
struct Report(Vec<(&'static str, f64)>);

impl Report {
    fn step<T>(&mut self, name: &'static str, run: impl FnOnce() -> eyre::Result<T>) -> eyre::Result<T> {
        eprintln!("[test] {name} …");
        let start = Instant::now();
        let result = run().wrap_err_with(|| format!("step `{name}` failed"))?;
        let secs = start.elapsed().as_secs_f64();
        eprintln!("[test] {name} ok ({secs:.1} s)");
        self.0.push((name, secs));
        Ok(result)
    }

    fn print(&self) {
        println!();
        for (name, secs) in &self.0 {
            println!("{name:<16} ok {secs:>8.1} s");
        }
    }
}

fn cargo_test(project: &Project, args: &TestArgs) -> eyre::Result<Tally> {
    let skips = tempfile::NamedTempFile::new().wrap_err("a file for what the tests skip")?;
    let mut command = project.cargo();
    command.args(["test", "--release", "--workspace"]).args(&args.filter).stdout(Stdio::piped());
    command.env(SKIP_LOG, skips.path());
    if args.full {
        command.env("SPSAM_FULL", "1");
    }
    let line = process::line(&command);
    let mut child = command.spawn().wrap_err_with(|| format!("cannot start `{line}`"))?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        let mut stdout = std::io::stdout().lock();
        for bytes in BufReader::new(output).split(b'\n') {
            let text = String::from_utf8_lossy(&bytes?).into_owned();
            writeln!(stdout, "{text}")?;
            tally.add(&text);
        }
    }
    let status = child.wait()?;
    tally.add_skips(&fs::read_to_string(skips.path()).wrap_err("what the tests skipped")?);
    if !status.success() {
        bail!("`{line}` failed: {status}\n{tally}");
    }
    Ok(tally)
}

/// Checks every dataflow with strict types, and every node's manifest.
fn validate(project: &Project) -> eyre::Result<()> {
    let (dataflows, manifests) = descriptors(project.root())?;
    for file in dataflows {
        process::run(project.dora_command().args(["validate", "--strict-types", "--offline"]).arg(file))?;
    }
    for file in manifests {
        process::run(project.dora_command().args(["validate", "--node-manifest"]).arg(file))?;
    }
    Ok(())
}

/// The dataflows in `dataflows/` and `examples/*/`, and the manifests `dora-node.yml` of nodes and examples, as
/// paths relative to `root`.
fn descriptors(root: &Path) -> eyre::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut folders = vec![root.join("dataflows")];
    for parent in ["nodes", "examples"] {
        folders.extend(entries(&root.join(parent))?);
    }
    let (mut dataflows, mut manifests) = (Vec::new(), Vec::new());
    for folder in folders {
        for file in entries(&folder)? {
            if file.extension().is_none_or(|extension| extension != "yml") {
                continue;
            }
            let shown = file.strip_prefix(root).unwrap_or(&file).to_owned();
            let text = fs::read_to_string(&file).wrap_err_with(|| file.display().to_string())?;
            if file.ends_with("dora-node.yml") {
                manifests.push(shown);
            } else if text.lines().any(|line| line.trim_end() == "nodes:") {
                dataflows.push(shown);
            }
        }
    }
    Ok((dataflows, manifests))
}

/// The entries of `folder`, sorted; none if it is not a folder.
fn entries(folder: &Path) -> eyre::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .wrap_err_with(|| folder.display().to_string())?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_tell_dataflows_from_manifests_and_other_files() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("dataflows/infer.yml", "nodes:\n  - id: a\n"),
            ("dataflows/types/spsam/v1.yml", "nodes:\n"),
            ("examples/custom/dataflow.yml", "env: {}\nnodes:\n"),
            ("examples/custom/replace.yml", "id: a\n"),
            ("examples/custom/dora-node.yml", "apiVersion: 1\n"),
            ("nodes/loader/dora-node.yml", "apiVersion: 1\n"),
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let (dataflows, manifests) = descriptors(folder.path()).unwrap();
        assert_eq!(dataflows, ["dataflows/infer.yml", "examples/custom/dataflow.yml"].map(PathBuf::from));
        assert_eq!(
            manifests,
            ["nodes/loader/dora-node.yml", "examples/custom/dora-node.yml"].map(PathBuf::from)
        );
    }

    #[test]
    fn failed_step_is_named() {
        let error = Report::default().step("lints", || -> eyre::Result<()> { bail!("why") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "step `lints` failed: why");
    }
}
