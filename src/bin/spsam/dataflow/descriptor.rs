//! A dataflow of this project in the form in which `spsam` passes it to dora: without builds, with absolute paths,
//! and without the settings that `spsam` sets itself. Those reach the nodes through the environment, because dora
//! would expand a `$` in them.

use std::fs;
use std::path::{Path, PathBuf};

use eyre::{Result, WrapErr, bail};
use serde_yaml::{Mapping, Value};

/// Reads and changes a dataflow.
pub fn prepare(dataflow: &Path, set: &[&str]) -> Result<Value> {
    let folder = folder_of(dataflow)?;
    let mut descriptor = read(dataflow)?;
    if let Some(env) = descriptor.get_mut("env").and_then(Value::as_mapping_mut) {
        env.retain(|name, _| !name.as_str().is_some_and(|name| set.contains(&name)));
    }
    let nodes = descriptor.get_mut("nodes").and_then(Value::as_sequence_mut);
    for node in nodes.into_iter().flatten().filter_map(Value::as_mapping_mut) {
        node.remove("build");
        make_absolute(node, &folder)?;
    }
    Ok(descriptor)
}

/// Reads a dataflow.
pub fn read(dataflow: &Path) -> Result<Value> {
    let text = fs::read_to_string(dataflow).wrap_err_with(|| dataflow.display().to_string())?;
    serde_yaml::from_str(&text).wrap_err_with(|| dataflow.display().to_string())
}

/// The folder in which a dataflow's paths start.
pub fn folder_of(dataflow: &Path) -> Result<PathBuf> {
    let path = dataflow.canonicalize().wrap_err_with(|| dataflow.display().to_string())?;
    Ok(path.parent().unwrap_or(Path::new("/")).to_path_buf())
}

fn make_absolute(node: &mut Mapping, folder: &Path) -> Result<()> {
    let Some(path) = node.get("path").and_then(Value::as_str) else { return Ok(()) };
    let program = folder.join(path);
    if !program.is_file() {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        bail!("{}: no such program; `cargo build --release -p {name}` makes it", program.display());
    }
    let program = program.canonicalize().wrap_err_with(|| program.display().to_string())?;
    let Some(text) = program.to_str() else {
        bail!("{}: dora takes no path that is not UTF-8", program.display());
    };
    node.insert("path".into(), text.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(folder: &Path) -> PathBuf {
        let path = folder.join("flow.yml");
        let text = "env: { A: '${A:-1}', B: '${B:-2}' }\n\
                    nodes:\n  - { id: one, path: bin/one, build: make }\n";
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn dora_gets_absolute_programs_no_builds_and_no_settings_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/one"), "").unwrap();
        let descriptor = prepare(&flow(folder.path()), &["A"]).unwrap();
        assert_eq!(serde_yaml::to_string(&descriptor["env"]).unwrap().trim(), "B: ${B:-2}");
        let node = &descriptor["nodes"][0];
        assert!(node.get("build").is_none());
        assert!(Path::new(node["path"].as_str().unwrap()).is_absolute());
    }

    #[test]
    fn a_program_that_is_not_built_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = prepare(&flow(folder.path()), &[]).unwrap_err().to_string();
        assert!(error.contains("bin/one: no such program"), "{error}");
    }
}
