//! The pinned Python packages in `requirements/`, and the stamp that records which of them are installed.

use eyre::WrapErr;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::project::Project;

/// A file of `requirements/`, installed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirements {
    /// The dora command line and what nodes written in Python need.
    Runtime,
    /// libtorch.
    Torch,
    /// Reference packages for the tests.
    Test,
}

impl Requirements {
    /// Name of the file.
    pub fn file(self) -> &'static str {
        match self {
            Self::Runtime => "runtime.txt",
            Self::Torch => "torch.txt",
            Self::Test => "test.txt",
        }
    }

    /// Path of the file.
    pub fn path(self, project: &Project) -> PathBuf {
        project.requirements().join(self.file())
    }

    /// Packages of the file with their versions.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn pins(self, project: &Project) -> eyre::Result<Vec<(String, String)>> {
        Ok(parse_pins(&read(&self.path(project))?))
    }

    /// A hash of the content of the file and of the constraints.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn fingerprint(self, project: &Project) -> eyre::Result<String> {
        let mut hasher = Sha256::new();
        for part in [read(&self.path(project))?, read(&constraints(project))?] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Ok(hex(&hasher.finalize()))
    }
}

/// The file that pins one version of every package that may be installed.
pub fn constraints(project: &Project) -> PathBuf {
    project.requirements().join("constraints.txt")
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> eyre::Result<String> {
    fs::read_to_string(path).wrap_err_with(|| path.display().to_string())
}

fn parse_pins(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once("=="))
        .map(|(name, version)| (name.trim().to_owned(), version.trim().to_owned()))
        .collect()
}

/// What is installed in the Python environment: a fingerprint per requirements file, stored in the environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stamp(BTreeMap<String, String>);

impl Stamp {
    fn path(project: &Project) -> PathBuf {
        project.venv().join("spsam-installed.txt")
    }

    /// The stamp of the environment; empty if there is none, as after an interrupted set-up.
    pub fn load(project: &Project) -> Self {
        let text = fs::read_to_string(Self::path(project)).unwrap_or_default();
        Self(
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(file, fingerprint)| (file.to_owned(), fingerprint.to_owned()))
                .collect(),
        )
    }

    /// Whether exactly these `requirements` are installed.
    ///
    /// # Errors
    /// If a requirements file cannot be read.
    pub fn has(&self, requirements: Requirements, project: &Project) -> eyre::Result<bool> {
        Ok(self.0.get(requirements.file()) == Some(&requirements.fingerprint(project)?))
    }

    /// Removes the stamp before packages change, so that an interrupted installation has none.
    ///
    /// # Errors
    /// If the file exists and cannot be removed.
    pub fn remove(project: &Project) -> eyre::Result<()> {
        match fs::remove_file(Self::path(project)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).wrap_err_with(|| Self::path(project).display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Writes the stamp for `installed`.
    ///
    /// # Errors
    /// If a requirements file cannot be read or the stamp cannot be written.
    pub fn write(project: &Project, installed: &[Requirements]) -> eyre::Result<()> {
        let mut text = String::new();
        for requirements in installed {
            text += &format!("{} {}\n", requirements.file(), requirements.fingerprint(project)?);
        }
        fs::write(Self::path(project), text).wrap_err_with(|| Self::path(project).display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(root: &Path) -> Project {
        let project = Project::at(root.to_owned(), None);
        fs::create_dir_all(project.requirements()).unwrap();
        fs::create_dir_all(project.venv()).unwrap();
        fs::write(constraints(&project), "torch==2.11.0\n").unwrap();
        fs::write(Requirements::Torch.path(&project), "# libtorch, from a==b\ntorch==2.11.0\n").unwrap();
        fs::write(Requirements::Runtime.path(&project), "dora-rs-cli==1.1.0\n").unwrap();
        project
    }

    #[test]
    fn stamp_holds_until_a_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        let has = |requirements| Stamp::load(&project).has(requirements, &project).unwrap();
        assert!(!has(Requirements::Torch));
        Stamp::write(&project, &[Requirements::Torch, Requirements::Runtime]).unwrap();
        assert!(has(Requirements::Torch) && has(Requirements::Runtime));

        fs::write(Requirements::Runtime.path(&project), "dora-rs-cli==1.2.0\n").unwrap();
        assert!(has(Requirements::Torch) && !has(Requirements::Runtime));

        fs::write(constraints(&project), "torch==2.12.0\n").unwrap();
        assert!(!has(Requirements::Torch));
    }

    #[test]
    fn removed_stamp_means_nothing_is_installed() {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        Stamp::write(&project, &[Requirements::Torch]).unwrap();
        Stamp::remove(&project).unwrap();
        Stamp::remove(&project).unwrap();
        assert_eq!(Stamp::load(&project), Stamp::default());
    }

    #[test]
    fn comments_are_not_packages() {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        assert_eq!(Requirements::Torch.pins(&project).unwrap(), [("torch".into(), "2.11.0".into())]);
    }

    #[test]
    fn committed_requirements_agree_with_their_constraints() {
        let project = Project::find().unwrap();
        let constraints = parse_pins(&read(&constraints(&project)).unwrap());
        for requirements in [Requirements::Runtime, Requirements::Torch, Requirements::Test] {
            let pins = requirements.pins(&project).unwrap();
            assert!(!pins.is_empty());
            for pin in pins {
                assert!(constraints.contains(&pin), "{}: {pin:?}", requirements.file());
            }
        }
    }
}
