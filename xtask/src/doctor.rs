//! `doctor`: says what is installed, what is missing and how to get it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::asset::{self, Asset, SAMPLE, WEIGHTS};
use crate::process;
use crate::project::Project;
use crate::python;
use crate::requirements::Requirements;

/// Compiled dependencies take about 4 GB, the Python environment 6 GB and its download 3 GB.
const DISK_GB: f64 = 14.0;
/// After set-up, the build and the results still need space.
const DISK_GB_AFTER_SET_UP: f64 = 4.0;
/// For six nodes with their shared-memory pools.
const SHARED_MEMORY_GB: f64 = 2.0;
/// Oldest Rust version that builds the project (`rust-version` in Cargo.toml).
const RUST: (u32, u32) = (1, 95);
/// The release that tch 0.24 requires.
const LIBTORCH: &str = "2.11.0";
const SET_UP: &str = "cargo xtask setup";

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Not required, or required only by the tests.
    Optional,
    Missing,
}

/// One line of the table.
struct Finding {
    what: &'static str,
    state: State,
    detail: String,
    remedy: &'static str,
}

impl Finding {
    /// `found` is what was found, or why it was not; `otherwise` is the state in the latter case.
    fn new(what: &'static str, found: eyre::Result<String>, otherwise: State, remedy: &'static str) -> Self {
        match found {
            Ok(detail) => Self { what, state: State::Ok, detail, remedy },
            Err(error) => Self { what, state: otherwise, detail: format!("{error:#}"), remedy },
        }
    }
}

/// Prints the table. The exit code is 1 if something required is missing.
///
/// # Errors
/// If a requirements file cannot be read.
pub fn doctor(project: &Project) -> eyre::Result<ExitCode> {
    let findings = examine(project)?;
    print!("{}", table(&findings));
    let missing = findings.iter().filter(|finding| finding.state == State::Missing).count();
    if missing > 0 {
        println!("{missing} required but missing");
        return Ok(ExitCode::FAILURE);
    }
    println!("everything required is there");
    Ok(ExitCode::SUCCESS)
}

fn examine(project: &Project) -> eyre::Result<Vec<Finding>> {
    use State::{Missing, Optional};
    let mut run_pins = Requirements::Runtime.pins(project)?;
    if project.own_libtorch().is_none() {
        run_pins.extend(Requirements::Torch.pins(project)?);
    }
    let test_pins = Requirements::Test.pins(project)?;
    let is_set_up = project.libtorch().join("lib").is_dir();
    let disk_gb = if is_set_up { DISK_GB_AFTER_SET_UP } else { DISK_GB };
    let libtorch_remedy = match project.own_libtorch() {
        Some(_) => "set LIBTORCH to a libtorch 2.11.0, or unset it: set-up then installs one",
        None => SET_UP,
    };
    let cargo = |args: &[&str]| process::capture(project.cargo().args(args));
    let fetched =
        |asset: &Asset| asset::check(&asset.path(project), asset.sha256).map(|()| asset.target.to_owned());
    Ok(vec![
        Finding::new("rustc", rustc(), Missing, "rustup update stable"),
        Finding::new(
            "rustfmt",
            cargo(&["fmt", "--version"]),
            Optional,
            "for tests: rustup component add rustfmt",
        ),
        Finding::new(
            "clippy",
            cargo(&["clippy", "--version"]),
            Optional,
            "for tests: rustup component add clippy",
        ),
        Finding::new("C++ compiler", compiler(), Missing, "Debian, Ubuntu: apt install g++; or set CXX"),
        Finding::new(
            "Python",
            interpreter(project),
            Missing,
            "Debian, Ubuntu: apt install python3 python3-venv",
        ),
        Finding::new("disk", free(project.root(), disk_gb), Missing, "free some space on the project's disk"),
        Finding::new(
            "/dev/shm",
            free(Path::new("/dev/shm"), SHARED_MEMORY_GB),
            Optional,
            "nodes then send messages by a slower way; in a container: docker run --shm-size=4g",
        ),
        Finding::new("run packages", packages(project, &run_pins), Missing, SET_UP),
        Finding::new("test packages", packages(project, &test_pins), Optional, "cargo xtask setup --test"),
        Finding::new("libtorch", libtorch(&project.libtorch()), Missing, libtorch_remedy),
        Finding::new("dora", dora(project), Missing, SET_UP),
        Finding::new("weights", fetched(&WEIGHTS), Missing, SET_UP),
        Finding::new("sample volume", fetched(&SAMPLE), Missing, SET_UP),
        Finding::new("CUDA", cuda(&project.libtorch()), Optional, "not required: the CPU is used"),
    ])
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { what, state, detail, remedy } in findings {
        let mark = match state {
            State::Ok => "ok",
            State::Optional => "-",
            State::Missing => "MISSING",
        };
        let first_line = detail.lines().next().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what:<14} {mark:<8} {first_line}");
        if *state != State::Ok {
            let _ = writeln!(text, "{:<23} → {remedy}", "");
        }
    }
    text
}

fn rustc() -> eyre::Result<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let answer = process::capture(Command::new(program).arg("--version"))?;
    eyre::ensure!(
        version(&answer).is_some_and(|found| found >= RUST),
        "{answer}, needs {}.{}",
        RUST.0,
        RUST.1
    );
    Ok(answer)
}

/// Major and minor version number of the first word that looks like a version.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

fn compiler() -> eyre::Result<String> {
    let own = std::env::var("CXX").ok();
    let names: Vec<&str> = match &own {
        Some(name) => vec![name],
        None => vec!["c++", "g++", "clang++"],
    };
    for name in &names {
        if let Ok(answer) = process::capture(Command::new(name).arg("--version")) {
            return Ok(answer.lines().next().unwrap_or_default().to_owned());
        }
    }
    eyre::bail!("none of {} works", names.join(", "))
}

/// The environment's Python, or before set-up the one that would create it.
fn interpreter(project: &Project) -> eyre::Result<String> {
    if let Ok(answer) = process::capture(Command::new(project.venv_python()).arg("--version")) {
        return Ok(format!("{answer} in {}", project.shown(&project.venv())));
    }
    let python = python::find()?;
    Ok(format!("Python {} ({}), environment not created yet", python.version, python.program.display()))
}

/// The free space at `folder`, which must be at least `needed_gb`.
fn free(folder: &Path, needed_gb: f64) -> eyre::Result<String> {
    let answer = process::capture(Command::new("df").arg("-Pk").arg(folder))?;
    let kb: f64 = answer
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .ok_or_else(|| eyre::eyre!("unexpected answer of df: {answer}"))?;
    let gb = kb * 1024.0 / 1e9;
    eyre::ensure!(gb >= needed_gb, "{gb:.1} GB free, needs {needed_gb} GB");
    Ok(format!("{gb:.1} GB free"))
}

/// Checks that all of `pins` are installed in their versions.
fn packages(project: &Project, pins: &[(String, String)]) -> eyre::Result<String> {
    const LIST: &str = "import importlib.metadata as m; \
        print('\\n'.join(f\"{d.metadata['Name']}=={d.version}\" for d in m.distributions()))";
    let answer = process::capture(Command::new(project.venv_python()).args(["-c", LIST]))
        .map_err(|_| eyre::eyre!("no Python environment"))?;
    let installed: Vec<(String, &str)> = answer
        .lines()
        .filter_map(|line| line.split_once("=="))
        .map(|(name, version)| (normal_name(name), version))
        .collect();
    let wrong: Vec<String> = pins
        .iter()
        .filter_map(|(name, version)| {
            match installed.iter().find(|(other, _)| *other == normal_name(name)) {
                None => Some(format!("{name} absent")),
                // A local version such as `2.11.0+cpu` is the same release in another build.
                Some((_, found)) if found.split('+').next() != Some(version) => {
                    Some(format!("{name} is {found}, needs {version}"))
                }
                Some(_) => None,
            }
        })
        .collect();
    eyre::ensure!(wrong.is_empty(), "{}", wrong.join(", "));
    Ok(pins.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "))
}

/// Package names that differ only in case and in `-`, `_`, `.` are equal.
fn normal_name(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

/// The release of a libtorch, from a file that every distribution contains.
fn libtorch(folder: &Path) -> eyre::Result<String> {
    let lib = folder.join("lib/libtorch.so");
    let mac = folder.join("lib/libtorch.dylib");
    eyre::ensure!(lib.exists() || mac.exists(), "{}: not there", lib.display());
    let python = std::fs::read_to_string(folder.join("version.py")).unwrap_or_default();
    let plain = std::fs::read_to_string(folder.join("build-version")).unwrap_or_default();
    let release = python
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = '")?.strip_suffix('\''))
        .unwrap_or(plain.trim());
    eyre::ensure!(
        release.split('+').next() == Some(LIBTORCH),
        "{}: release `{release}`, needs {LIBTORCH}",
        folder.display()
    );
    Ok(format!("{release} in {}", folder.display()))
}

fn dora(project: &Project) -> eyre::Result<String> {
    let answer = process::capture(Command::new(project.dora()).arg("--version"))?;
    let pins = Requirements::Runtime.pins(project)?;
    let pin = pins.iter().find(|(name, _)| name == "dora-rs-cli").map_or("", |(_, version)| version);
    eyre::ensure!(answer.split_whitespace().last() == Some(pin), "{answer}, needs {pin}");
    Ok(answer)
}

/// Checks that libtorch was built for CUDA and a driver is loaded.
fn cuda(libtorch: &Path) -> eyre::Result<String> {
    eyre::ensure!(libtorch.join("lib/libtorch_cuda.so").exists(), "libtorch is built without CUDA");
    let answer = process::capture(Command::new("nvidia-smi").arg("--list-gpus"))
        .map_err(|_| eyre::eyre!("no NVIDIA driver"))?;
    eyre::ensure!(!answer.is_empty(), "the driver sees no GPU");
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn version_is_the_first_number_with_a_dot() {
        assert_eq!(version("rustc 1.95.0 (59807616e 2026-04-14)"), Some((1, 95)));
        assert_eq!(version("rustc"), None);
    }

    #[test]
    fn libtorch_of_another_release_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        assert!(libtorch(folder.path()).is_err());
        fs::write(folder.path().join("lib/libtorch.so"), "").unwrap();
        fs::write(folder.path().join("build-version"), "2.11.0+cpu\n").unwrap();
        assert!(libtorch(folder.path()).is_ok());
        fs::write(folder.path().join("version.py"), "debug = False\n__version__ = '2.12.1+cu130'\n").unwrap();
        let error = libtorch(folder.path()).unwrap_err().to_string();
        assert!(error.contains("2.12.1"), "{error}");
    }

    #[test]
    fn table_gives_a_remedy_for_what_is_missing() {
        let missing = Finding::new("dora", Err(eyre::eyre!("absent")), State::Missing, SET_UP);
        let there = Finding::new("rustc", Ok("1.95".into()), State::Missing, "never shown");
        let text = table(&[missing, there]);
        assert!(text.contains(SET_UP) && !text.contains("never shown"), "{text}");
    }

    #[test]
    fn package_names_are_compared_as_pip_does() {
        assert_eq!(normal_name("Surface_Distance"), normal_name("surface-distance"));
    }
}
