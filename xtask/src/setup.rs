//! Installs everything that a build and a run need into `.spsam/`. Can be repeated; an interrupted set-up continues
//! where it stopped.

use eyre::{WrapErr, bail};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use crate::asset::{SAMPLE, WEIGHTS};
use crate::project::Project;
use crate::python;
use crate::requirements::Requirements;

/// The purpose of a set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building and running.
    Demo,
    /// Also the tests, with their reference packages.
    Test,
}

impl Purpose {
    /// The required packages. A caller's own libtorch replaces the torch package, except for tests: their reference
    /// packages depend on torch.
    fn requirements(self, project: &Project) -> Vec<Requirements> {
        let mut wanted = vec![Requirements::Runtime];
        if self == Self::Test || project.own_libtorch().is_none() {
            wanted.push(Requirements::Torch);
        }
        if self == Self::Test {
            wanted.push(Requirements::Test);
        }
        wanted
    }
}

/// Sets up `project` for `purpose`.
///
/// # Errors
/// If Python, a package or a file cannot be obtained; the message says which.
pub fn set_up(project: &Project, purpose: Purpose) -> eyre::Result<()> {
    let start = Instant::now();
    fs::create_dir_all(project.bin()).wrap_err_with(|| project.bin().display().to_string())?;
    let _lock = lock(project)?;
    python::ensure_environment(project)?;
    python::ensure_packages(project, &purpose.requirements(project))?;
    link("../venv/bin/dora".as_ref(), &project.dora())?;
    match project.own_libtorch() {
        Some(folder) if !folder.join("lib").is_dir() => {
            bail!("LIBTORCH={}: the folder has no lib folder", folder.display())
        }
        Some(_) => {}
        None => link_libtorch(project)?,
    }
    WEIGHTS.ensure(project)?;
    SAMPLE.ensure(project)?;
    eprintln!("[setup] complete ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// Prevents two set-ups at once; the lock ends with the process.
fn lock(project: &Project) -> eyre::Result<File> {
    let path = project.dot_spsam().join("lock");
    let file = File::create(&path).wrap_err_with(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("[setup] waiting for another set-up");
            file.lock().wrap_err_with(|| path.display().to_string())?;
        }
        Err(TryLockError::Error(error)) => return Err(error).wrap_err_with(|| path.display().to_string()),
    }
    Ok(file)
}

fn link_libtorch(project: &Project) -> eyre::Result<()> {
    let torch = python::site_packages(project)?.join("torch");
    if !torch.join("lib").is_dir() {
        bail!("{} has no libtorch; remove {} and set up again", torch.display(), project.venv().display());
    }
    let target = torch.strip_prefix(project.dot_spsam()).unwrap_or(&torch);
    link(target, &project.libtorch_link())
}

/// Makes `at` a symbolic link to `target`, in one step even if it was another link before.
fn link(target: &Path, at: &Path) -> eyre::Result<()> {
    if fs::read_link(at).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let fresh = at.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).wrap_err_with(|| fresh.display().to_string());
        }
        _ => {}
    }
    symlink(target, &fresh).wrap_err_with(|| fresh.display().to_string())?;
    fs::rename(&fresh, at).wrap_err_with(|| at.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_libtorch_spares_the_torch_package_except_in_tests() {
        let own = Project::at("/p".into(), Some("/opt/libtorch".into()));
        assert_eq!(Purpose::Demo.requirements(&own), [Requirements::Runtime]);
        assert!(Purpose::Test.requirements(&own).contains(&Requirements::Torch));
        let none = Project::at("/p".into(), None);
        assert!(Purpose::Demo.requirements(&none).contains(&Requirements::Torch));
    }

    #[test]
    fn link_is_replaced_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("libtorch");
        for target in ["a", "b", "b"] {
            link(target.as_ref(), &at).unwrap();
            assert_eq!(fs::read_link(&at).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
