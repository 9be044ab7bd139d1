//! The demo: segments both hippocampi of the MNI152 head through the dataflow, without prompts.

use clap::Args;
use eyre::{WrapErr, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use crate::asset::SAMPLE;
use crate::process;
use crate::project::Project;
use crate::setup::{self, Purpose};

/// The dataflow in which the model makes its own prompts.
const DATAFLOW: &str = "dataflows/infer.yml";

/// The bundle trained on crops around hippocampi.
pub const MODEL: &str = "models/hippocampus";

/// A crop of this kind on each side of the head, `name=x0,y0,z0,x1,y1,z1` in mm of the volume's world space (RAS).
pub const REGIONS: &str = "left=-44,-46,-32,-9,6,6;right=9,-46,-32,44,6,6";

/// Options of the demo.
#[derive(Args)]
pub struct DemoArgs {
    /// Folder for the results, relative to the project folder [default: output/demo, or output/demo-live with --live]
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Let the head arrive slice by slice, as from a scanner, and segment it meanwhile
    #[arg(long)]
    pub live: bool,
    /// Slices a second with --live
    #[arg(long, default_value_t = 5.0, requires = "live")]
    pub rate: f64,
}

/// Sets up, builds, runs the dataflow and lists the files it wrote.
///
/// # Errors
/// If a step fails or the run writes nothing.
pub fn demo(project: &Project, args: &DemoArgs) -> eyre::Result<()> {
    prepare(project)?;
    let output = project.root().join(args.output.as_deref().unwrap_or("output/demo".as_ref()));
    let started = SystemTime::now();
    let clock = Instant::now();
    process::run(&mut main_job(project, &output))?;
    let mut written = Vec::new();
    files_since(&output, started, &mut written)?;
    if written.is_empty() {
        bail!("{}: the run ended without writing a file", output.display());
    }
    println!("\nSegmented the MNI152 head in {:.1} s and wrote", clock.elapsed().as_secs_f64());
    for (file, bytes) in written {
        println!("  {:<44} {:>8.1} kB", project.shown(&file).to_string(), bytes as f64 / 1000.0);
    }
    Ok(())
}

/// Sets up and builds.
///
/// # Errors
/// If a step fails.
pub fn prepare(project: &Project) -> eyre::Result<()> {
    setup::set_up(project, Purpose::Demo)?;
    eprintln!("[demo] cargo build --release");
    process::run(project.cargo().args(["build", "--release", "--workspace"]))
}

/// The command that the demo demonstrates; everything else prepares it.
fn main_job(project: &Project, output: &Path) -> Command {
    let mut command = project.dora_command();
    command
        .args(["run", DATAFLOW])
        .env("SPSAM_INPUT", SAMPLE.path(project))
        .env("SPSAM_MODEL", project.root().join(MODEL))
        .env("SPSAM_ROI", REGIONS)
        .env("SPSAM_OUTPUT", output);
    command
}

/// Files below `folder` that were written after `started`, with their sizes, by name.
pub fn files_since(folder: &Path, started: SystemTime, found: &mut Vec<(PathBuf, u64)>) -> eyre::Result<()> {
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .wrap_err_with(|| folder.display().to_string())?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files_since(&entry.path(), started, found)?;
        } else if metadata.modified()? >= started {
            found.push((entry.path(), metadata.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_fresh_files_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/new"), "12345").unwrap();
        let old = fs::File::create(folder.path().join("old")).unwrap();
        let now = SystemTime::now();
        old.set_modified(now - Duration::from_secs(60)).unwrap();
        let mut found = Vec::new();
        files_since(folder.path(), now - Duration::from_secs(30), &mut found).unwrap();
        assert_eq!(found, [(folder.path().join("a/new"), 5)]);
    }

    #[test]
    fn regions_are_ordered_corners() {
        for entry in REGIONS.split(';') {
            let (name, corners) = entry.split_once('=').unwrap();
            let mm: Vec<f64> = corners.split(',').map(|number| number.parse().unwrap()).collect();
            assert!(!name.is_empty() && mm.len() == 6);
            assert!((0..3).all(|axis| mm[axis] < mm[axis + 3]), "{entry}");
        }
    }
}
