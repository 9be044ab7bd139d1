//! The Python environment of the project: finds an interpreter, makes a `venv`, installs pinned packages.

use eyre::{WrapErr, bail};
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::project::Project;
use crate::requirements::{self, Requirements, Stamp};

/// Minor versions of Python 3 for which both dora-rs 1.1 and torch 2.11 are published.
const MINOR_VERSIONS: std::ops::RangeInclusive<u32> = 11..=14;

/// A Python that can create environments.
#[derive(Debug)]
pub struct Python {
    /// Program to start.
    pub program: PathBuf,
    /// Version as `3.12.1`.
    pub version: String,
    /// Module that creates environments: `venv` or `virtualenv`.
    pub module: &'static str,
}

/// Finds a Python 3.11 to 3.14, in `SPSAM_PYTHON3` or on PATH.
///
/// # Errors
/// If there is none; the message says for each candidate what it lacks.
pub fn find() -> eyre::Result<Python> {
    let candidates: Vec<PathBuf> = match std::env::var_os("SPSAM_PYTHON3") {
        Some(program) => vec![program.into()],
        None => std::iter::once("python3".to_owned())
            .chain(MINOR_VERSIONS.rev().map(|minor| format!("python3.{minor}")))
            .chain(["python".to_owned()])
            .map(PathBuf::from)
            .collect(),
    };
    let mut refusals = Vec::new();
    for program in candidates {
        match examine(&program) {
            Ok(python) => return Ok(python),
            Err(error) => refusals.push(format!("  {}: {error}", program.display())),
        }
    }
    bail!(
        "no Python 3.{} to 3.{} with the module venv (Debian, Ubuntu: apt install python3 python3-venv; \
         or name one in SPSAM_PYTHON3):\n{}",
        MINOR_VERSIONS.start(),
        MINOR_VERSIONS.end(),
        refusals.join("\n")
    )
}

fn examine(program: &Path) -> eyre::Result<Python> {
    const QUESTION: &str = "import sys, importlib.util as u; \
        has = lambda name: u.find_spec(name) is not None; \
        print(sys.version_info.major, sys.version_info.minor, sys.version_info.micro, \
        'venv' if has('venv') and has('ensurepip') else 'virtualenv' if has('virtualenv') else 'none')";
    let answer = process::capture(Command::new(program).args(["-c", QUESTION]))
        .map_err(|_| eyre::eyre!("cannot be started"))?;
    let words: Vec<&str> = answer.split_whitespace().collect();
    let [major, minor, micro, module] = words[..] else { bail!("unexpected answer `{answer}`") };
    if major != "3" || !minor.parse().is_ok_and(|minor| MINOR_VERSIONS.contains(&minor)) {
        bail!("is version {major}.{minor}");
    }
    let module = match module {
        "venv" => "venv",
        "virtualenv" => "virtualenv",
        _ => bail!("{major}.{minor} has neither the module venv nor virtualenv"),
    };
    Ok(Python { program: program.to_owned(), version: format!("{major}.{minor}.{micro}"), module })
}

/// Creates the environment, also if the existing one is damaged or was moved here from another folder.
///
/// # Errors
/// If no Python is found or the environment cannot be created.
pub fn ensure_environment(project: &Project) -> eyre::Result<()> {
    let venv = real_venv(project)?;
    if is_whole(&venv) {
        return Ok(());
    }
    let python = find()?;
    eprintln!("[setup] Python {} environment in {}", python.version, project.shown(&project.venv()));
    if venv.exists() {
        fs::remove_dir_all(&venv).wrap_err_with(|| venv.display().to_string())?;
    }
    process::run(Command::new(&python.program).args(["-m", python.module]).arg(&venv))
}

/// Installs the packages of `wanted` that are not yet installed in their pinned versions.
///
/// # Errors
/// If pip fails; the next call continues where it stopped.
pub fn ensure_packages(project: &Project, wanted: &[Requirements]) -> eyre::Result<()> {
    let stamp = Stamp::load(project);
    let mut installed = Vec::new();
    let mut missing = Vec::new();
    for requirements in [Requirements::Torch, Requirements::Runtime, Requirements::Test] {
        if stamp.has(requirements, project)? {
            installed.push(requirements);
        } else if wanted.contains(&requirements) {
            missing.push(requirements);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let size =
        if missing.contains(&Requirements::Torch) { ", with torch a download of about 3 GB" } else { "" };
    let files: Vec<_> = missing.iter().map(|requirements| requirements.file()).collect();
    eprintln!("[setup] Python packages of requirements/{}{size}", files.join(", requirements/"));
    let mut command = pip(project, "install");
    command.arg("--constraint").arg(requirements::constraints(project));
    for requirements in &missing {
        command.arg("--requirement").arg(requirements.path(project));
    }
    Stamp::remove(project)?;
    process::run(&mut command)?;
    installed.extend(missing);
    Stamp::write(project, &installed)
}

/// `pip <action>` of the environment, quiet unless on a terminal. Index, proxy and cache are the user's settings.
pub fn pip(project: &Project, action: &str) -> Command {
    let mut command = Command::new(project.venv_python());
    command.args(["-m", "pip", action, "--disable-pip-version-check", "--no-input"]);
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command
}

/// The folder `site-packages` of the environment.
///
/// # Errors
/// If the environment has none.
pub fn site_packages(project: &Project) -> eyre::Result<PathBuf> {
    let lib = project.venv().join("lib");
    let entries = fs::read_dir(&lib).wrap_err_with(|| lib.display().to_string())?;
    for entry in entries {
        let folder = entry?.path().join("site-packages");
        if folder.is_dir() {
            return Ok(folder);
        }
    }
    bail!("{}: no site-packages", lib.display())
}

/// The environment's path with symbolic links resolved: its scripts contain this path, so several checkouts can
/// share it.
fn real_venv(project: &Project) -> eyre::Result<PathBuf> {
    let folder = project.dot_spsam();
    let real = folder.canonicalize().wrap_err_with(|| folder.display().to_string())?;
    Ok(real.join("venv"))
}

/// Whether the environment is complete: it has pip, whose script is written last and starts the Python of this
/// folder.
fn is_whole(venv: &Path) -> bool {
    let starts = fs::read_to_string(venv.join("bin/pip"))
        .is_ok_and(|script| script.contains(&format!("{}/bin/python", venv.display())));
    starts && process::capture(Command::new(venv.join("bin/python")).args(["-c", "import pip"])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake_python(folder: &Path, answer: &str) -> PathBuf {
        let program = folder.join("python3");
        fs::write(&program, format!("#!/bin/sh\necho {answer}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn python_without_a_torch_wheel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for answer in ["3 10 9 venv", "3 15 0 venv", "2 7 18 venv", "3 12 1 none"] {
            assert!(examine(&fake_python(folder.path(), answer)).is_err(), "{answer}");
        }
        let python = examine(&fake_python(folder.path(), "3 12 1 virtualenv")).unwrap();
        assert_eq!((python.version.as_str(), python.module), ("3.12.1", "virtualenv"));
    }

    #[test]
    fn environment_is_not_whole_when_interrupted_or_moved() {
        let folder = tempfile::tempdir().unwrap();
        let venv = folder.path().join("venv");
        assert!(!is_whole(&venv));
        fs::create_dir_all(venv.join("bin")).unwrap();
        fs::rename(fake_python(folder.path(), "pip"), venv.join("bin/python")).unwrap();
        assert!(!is_whole(&venv));
        fs::write(venv.join("bin/pip"), "#!/elsewhere/venv/bin/python3\n").unwrap();
        assert!(!is_whole(&venv));
        fs::write(venv.join("bin/pip"), format!("#!{}/bin/python3\n", venv.display())).unwrap();
        assert!(is_whole(&venv));
    }
}
