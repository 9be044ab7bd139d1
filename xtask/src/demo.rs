//! The demo: two structures of the MNI152 head, segmented through the dataflow with the real LiteMedSAM weights.

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

/// The dataflow that takes its prompts from given boxes or labels.
const DATAFLOW: &str = "dataflows/oracle.yml";

/// Both thalami, as `name=x0,y0,z0,x1,y1,z1` in mm of the volume's world space (RAS): over these 16 mm each
/// box holds one compact structure that LiteMedSAM outlines without training.
const BOXES: &str = "left_thalamus=-23,-35,2,-2,0,16;right_thalamus=2,-35,2,23,0,16";

/// The slices around the boxes, in full: nothing is prompted for on the others.
const REGION: &str = "-98,-134,0,98,98,18";

/// Options of the demo.
#[derive(Args)]
pub struct DemoArgs {
    /// Folder of the results, from the project folder
    #[arg(long, default_value = "output/demo")]
    output: PathBuf,
}

/// Sets up, builds, runs the dataflow and lists what it wrote.
///
/// # Errors
/// When a step fails or the run writes nothing.
pub fn demo(project: &Project, args: &DemoArgs) -> eyre::Result<()> {
    setup::set_up(project, Purpose::Demo)?;
    eprintln!("[demo] cargo build --release");
    process::run(project.cargo().args(["build", "--release", "--workspace"]))?;

    let output = project.root().join(&args.output);
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

/// The command that the demo is about; everything else prepares it.
fn main_job(project: &Project, output: &Path) -> Command {
    let mut command = project.dora_command();
    command
        .args(["run", DATAFLOW])
        .env("SPSAM_INPUT", SAMPLE.path(project))
        .env("SPSAM_BOXES", BOXES)
        .env("SPSAM_ROI", REGION)
        .env("SPSAM_OUTPUT", output);
    command
}

/// Files below `folder` that were written after `started`, with their size, by name.
fn files_since(folder: &Path, started: SystemTime, found: &mut Vec<(PathBuf, u64)>) -> eyre::Result<()> {
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
    fn boxes_are_ordered_corners() {
        for entry in BOXES.split(';') {
            let (name, corners) = entry.split_once('=').unwrap();
            let mm: Vec<f64> = corners.split(',').map(|number| number.parse().unwrap()).collect();
            assert!(!name.is_empty() && mm.len() == 6);
            assert!((0..3).all(|axis| mm[axis] < mm[axis + 3]), "{entry}");
        }
    }
}
