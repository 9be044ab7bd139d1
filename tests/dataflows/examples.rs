//! The example nodes in Python: their own tests, and their size.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip::skipped;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/custom-prompt-python")
}

#[test]
fn the_python_prompt_node_passes_its_own_tests() {
    let python = std::env::var_os("SPSAM_PYTHON")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".spsam/venv/bin/python"), PathBuf::from);
    if !python.is_file() {
        skipped("needs the Python environment: `cargo xtask setup --test`");
        return;
    }
    let output = Command::new(python).current_dir(example()).arg("test_prompt_node.py").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_python_prompt_node_is_short_and_needs_only_dora_pyarrow_and_numpy() {
    let source = std::fs::read_to_string(example().join("prompt_node.py")).unwrap();
    assert!(source.lines().count() < 60);
    let imports: Vec<&str> =
        source.lines().filter(|line| line.starts_with("import ") || line.starts_with("from ")).collect();
    assert_eq!(imports, ["import numpy as np", "import pyarrow as pa", "from dora import Node"]);
}
