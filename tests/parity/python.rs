//! Runs the scripts that make golden values with the reference packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use tch::Tensor;

/// Runs `tests/python/<script>` with these arguments.
pub fn run_with(script: &str, arguments: &[&Path]) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("SPSAM_PYTHON")
        .map_or_else(|| project.join(".spsam/venv/bin/python"), PathBuf::from);
    let status = Command::new(&python)
        .arg(project.join("tests/python").join(script))
        .args(arguments)
        .status()
        .unwrap_or_else(|e| panic!("{}: {e}; set SPSAM_PYTHON", python.display()));
    assert!(status.success(), "{script} failed: {status}");
}

/// Runs `tests/python/<script>` with a new folder as argument, and returns that folder.
pub fn run(script: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(script).with_extension("");
    run_with(script, &[&folder]);
    folder
}

/// Largest absolute difference, as a fraction of the largest magnitude of the expected values.
pub fn relative_difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let expected = expected.to_device(found.device());
    ((found - &expected).abs().max() / expected.abs().max()).double_value(&[])
}
