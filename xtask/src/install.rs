//! `install`: makes a movable folder with everything that a run needs, independent of the source tree.
//!
//! ```text
//! bin/                spsam, the nodes, dora's command line
//! dataflows/          with their types, without builds
//! models/             the shipped bundles
//! lib/python/         libtorch (torch/lib), what it needs of NVIDIA (nvidia/), dora's command line (dora_cli/)
//! .spsam/             LiteMedSAM's weights and the sample volume
//! ```

use clap::Args;
use eyre::{WrapErr, bail};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::asset::{SAMPLE, WEIGHTS};
use crate::process;
use crate::project::Project;
use crate::python;
use crate::setup::{self, Purpose};

/// The project's programs in `target/release`.
const PROGRAMS: [&str; 9] = [
    "spsam",
    "spsam-scanner-source",
    "spsam-volume-loader",
    "spsam-image-encoder",
    "spsam-prompt-generator",
    "spsam-prompt-extractor",
    "spsam-mask-decoder",
    "spsam-metrics-writer",
    "spsam-live-view",
];

/// dora's command line is a Python module; the script finds it relative to its own path.
const DORA: &str = "#!/usr/bin/env python3\n\
    import os, sys\n\
    here = os.path.dirname(os.path.realpath(__file__))\n\
    sys.path.insert(0, os.path.join(here, '..', 'lib', 'python'))\n\
    from dora_cli import py_main\n\
    sys.exit(py_main())\n";

/// Options of the installation.
#[derive(Args)]
pub struct InstallArgs {
    /// Folder to make; the files of an earlier installation in it are replaced
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Link to libtorch (4 GB with CUDA) instead of copying it; it must then stay where it is. A copy within one
    /// file system takes no space.
    #[arg(long)]
    link_libtorch: bool,
    /// Use the existing set-up and build
    #[arg(long, hide = true)]
    no_build: bool,
}

/// Sets up, builds, and makes the folder.
///
/// # Errors
/// If a step fails; the message names the file or command.
pub fn install(project: &Project, args: &InstallArgs) -> eyre::Result<()> {
    if !args.no_build {
        setup::set_up(project, Purpose::Demo)?;
        eprintln!("[install] cargo build --release");
        process::run(project.cargo().args(["build", "--release", "--workspace"]))?;
    }
    let root = std::path::absolute(&args.root).wrap_err_with(|| args.root.display().to_string())?;
    eprintln!("[install] into {}", root.display());
    for folder in ["bin", "dataflows", "models", "lib", ".spsam"] {
        remove(&root.join(folder))?;
    }
    for program in PROGRAMS {
        // Copied, not linked, because cargo overwrites its programs.
        copy(&project.root().join("target/release").join(program), &root.join("bin").join(program), false)?;
    }
    dora(project, &root)?;
    dataflows(project, &root)?;
    tree(&project.root().join("models"), &root.join("models"), false)?;
    for asset in [&WEIGHTS, &SAMPLE] {
        copy(&asset.path(project), &root.join(".spsam").join(asset.target), true)?;
    }
    libtorch(project, &root, args.link_libtorch)?;
    println!("{0}/bin/spsam and {0}/bin/dora are ready; the folder may be moved", root.display());
    Ok(())
}

fn dora(project: &Project, root: &Path) -> eyre::Result<()> {
    tree(&python::site_packages(project)?.join("dora_cli"), &root.join("lib/python/dora_cli"), true)?;
    let program = root.join("bin/dora");
    fs::write(&program, DORA)
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)))
        .wrap_err_with(|| program.display().to_string())
}

fn dataflows(project: &Project, root: &Path) -> eyre::Result<()> {
    let (from, to) = (project.root().join("dataflows"), root.join("dataflows"));
    tree(&from.join("types"), &to.join("types"), false)?;
    for entry in entries(&from)? {
        if entry.extension().is_some_and(|extension| extension == "yml") {
            let text = fs::read_to_string(&entry).wrap_err_with(|| entry.display().to_string())?;
            let target = to.join(entry.file_name().unwrap_or_default());
            fs::write(&target, installed(&text)).wrap_err_with(|| target.display().to_string())?;
        }
    }
    Ok(())
}

/// A dataflow that uses the programs of the folder, without builds.
fn installed(dataflow: &str) -> String {
    let lines = dataflow.lines().filter(|line| !line.trim_start().starts_with("build:"));
    lines.map(|line| line.replace("../target/release/", "../bin/") + "\n").collect()
}

/// libtorch and NVIDIA's libraries side by side, as in a Python environment: libtorch finds them relative to its own
/// path.
fn libtorch(project: &Project, root: &Path, link: bool) -> eyre::Result<()> {
    let libtorch = project.libtorch();
    let libtorch = libtorch.canonicalize().wrap_err_with(|| libtorch.display().to_string())?;
    let beside = libtorch.parent().unwrap_or(Path::new("/")).join("nvidia");
    let python = root.join("lib/python");
    fs::create_dir_all(python.join("torch")).wrap_err_with(|| python.display().to_string())?;
    for (from, to) in [(libtorch.join("lib"), python.join("torch/lib")), (beside, python.join("nvidia"))] {
        if !from.is_dir() {
            continue;
        } else if link {
            symlink(&from, &to).wrap_err_with(|| to.display().to_string())?;
        } else {
            tree(&from, &to, true)?;
        }
    }
    if !python.join("torch/lib").is_dir() {
        bail!("{}: no libtorch in it", libtorch.display());
    }
    Ok(())
}

/// Copies a folder, except files that programs create at run time.
fn tree(from: &Path, to: &Path, may_link: bool) -> eyre::Result<()> {
    for entry in entries(from)? {
        let name = entry.file_name().unwrap_or_default();
        if name == "__pycache__" {
            continue;
        }
        let target = to.join(name);
        if entry.is_dir() { tree(&entry, &target, may_link)? } else { copy(&entry, &target, may_link)? }
    }
    Ok(())
}

/// Copies a file, or makes a hard link if the file system supports it and the file is never overwritten.
fn copy(from: &Path, to: &Path, may_link: bool) -> eyre::Result<()> {
    let copied = || -> io::Result<()> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let real = from.canonicalize()?;
        if may_link && fs::hard_link(&real, to).is_ok() {
            return Ok(());
        }
        fs::copy(&real, to).map(drop)
    };
    copied().wrap_err_with(|| format!("{} to {}", from.display(), to.display()))
}

fn remove(path: &Path) -> eyre::Result<()> {
    let removed = if path.is_symlink() { fs::remove_file(path) } else { fs::remove_dir_all(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).wrap_err_with(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> eyre::Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    read.wrap_err_with(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_dataflow_builds_nothing_and_has_its_programs_beside_it() {
        let text =
            "nodes:\n  - id: a\n    path: ../target/release/spsam-a\n    build: cargo build -p spsam-a\n";
        assert_eq!(installed(text), "nodes:\n  - id: a\n    path: ../bin/spsam-a\n");
    }

    #[test]
    fn a_copied_folder_does_not_change_with_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub/__pycache__")).unwrap();
        fs::write(from.join("sub/file"), "old").unwrap();
        fs::write(from.join("sub/__pycache__/x.pyc"), "").unwrap();
        tree(&from, &to, false).unwrap();
        fs::write(from.join("sub/file"), "new").unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/file")).unwrap(), "old");
        assert!(!to.join("sub/__pycache__").exists());
        remove(&to).unwrap();
        remove(&to).unwrap();
    }
}
