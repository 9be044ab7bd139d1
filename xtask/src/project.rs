//! Paths in the project folder.

use eyre::WrapErr;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project folder and the paths in its `.spsam/`.
pub struct Project {
    root: PathBuf,
    /// `LIBTORCH` of the caller, unless it is the value that `.cargo/config.toml` sets.
    own_libtorch: Option<PathBuf>,
}

impl Project {
    /// The project that cargo runs this program for, else the one it was built in. (cargo names the project at run
    /// time, because the folder may have been moved since the build.)
    ///
    /// # Errors
    /// If the folder does not exist.
    pub fn find() -> eyre::Result<Self> {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&xtask).join("..");
        let root = root.canonicalize().wrap_err_with(|| root.display().to_string())?;
        Ok(Self::at(root, std::env::var_os("LIBTORCH")))
    }

    /// The project in `root`, for a caller with `libtorch` as LIBTORCH in its environment.
    pub fn at(root: PathBuf, libtorch: Option<OsString>) -> Self {
        let own_libtorch = libtorch.map(PathBuf::from).filter(|path| *path != root.join(".spsam/libtorch"));
        Self { root, own_libtorch }
    }

    /// The top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The caller's own libtorch, if any.
    pub fn own_libtorch(&self) -> Option<&Path> {
        self.own_libtorch.as_deref()
    }

    /// The libtorch that the build uses.
    pub fn libtorch(&self) -> PathBuf {
        self.own_libtorch.clone().unwrap_or_else(|| self.libtorch_link())
    }

    /// The folder that set-up fills.
    pub fn dot_spsam(&self) -> PathBuf {
        self.root.join(".spsam")
    }

    /// The Python environment.
    pub fn venv(&self) -> PathBuf {
        self.dot_spsam().join("venv")
    }

    /// The Python of that environment.
    pub fn venv_python(&self) -> PathBuf {
        self.venv().join("bin/python")
    }

    /// Link to the libtorch inside the Python environment.
    pub fn libtorch_link(&self) -> PathBuf {
        self.dot_spsam().join("libtorch")
    }

    /// Folder of the commands that dataflows need.
    pub fn bin(&self) -> PathBuf {
        self.dot_spsam().join("bin")
    }

    /// The dora command line.
    pub fn dora(&self) -> PathBuf {
        self.bin().join("dora")
    }

    /// The folder of pinned Python packages.
    pub fn requirements(&self) -> PathBuf {
        self.root.join("requirements")
    }

    /// cargo, run in the project folder, with our dora command line first on PATH.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        self.prepare(&mut command);
        command
    }

    /// dora, run in the project folder.
    pub fn dora_command(&self) -> Command {
        let mut command = Command::new(self.dora());
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        // Variables that `cargo run` sets for xtask itself. Build scripts of dependencies (ring) watch some of them,
        // so cargo called from here and cargo called by hand would each invalidate the other's build.
        let of_xtask = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
                || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&name)
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_xtask)) {
            command.env_remove(name);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.bin()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        // The dataflows read PWD to resolve relative paths.
        command.current_dir(&self.root).env("PWD", &self.root);
    }

    /// `path` relative to the project folder, for messages.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_of_the_caller_wins() {
        let project = Project::at("/p".into(), Some("/opt/libtorch".into()));
        assert_eq!(project.libtorch(), Path::new("/opt/libtorch"));
    }

    #[test]
    fn libtorch_set_by_cargo_is_not_the_callers() {
        let project = Project::at("/p".into(), Some("/p/.spsam/libtorch".into()));
        assert_eq!(project.own_libtorch(), None);
        assert_eq!(project.libtorch(), Path::new("/p/.spsam/libtorch"));
    }
}
