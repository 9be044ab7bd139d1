//! The folder of `cargo xtask install`, moved, and a dataflow outside of this project that uses it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::harness::{Bench, project};
use super::skip::skipped;

#[test]
fn a_moved_installation_serves_a_dataflow_in_a_folder_of_its_own() {
    let xtask = project().join("target/release/xtask");
    if !xtask.is_file() {
        skipped("needs target/release/xtask: `cargo build --release --workspace`");
        return;
    }
    let bench = Bench::new(1, 4);
    let made = Command::new(&xtask)
        .env("CARGO_MANIFEST_DIR", project().join("xtask"))
        .args(["install", "--no-build", "--link-libtorch", "--root"])
        .arg(bench.path("made"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::rename(bench.path("made"), bench.path("moved")).unwrap();
    // It finds its own dora, whatever `PATH` says.
    let doctor = Command::new(bench.path("moved/bin/spsam"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .arg("doctor")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains(&bench.path("moved/bin/dora").display().to_string()), "{said}");

    let own = bench.path("own");
    fs::create_dir(&own).unwrap();
    for file in ["dataflow.yml", "area_node.py"] {
        fs::copy(project().join("examples/outside").join(file), own.join(file)).unwrap();
    }
    symlink(bench.path("moved"), own.join("spsam")).unwrap();
    symlink("spsam/dataflows/types", own.join("types")).unwrap();

    let python = project().join(".spsam/venv/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(own.join("spsam/bin/dora"));
    command.arg("run").arg(own.join("dataflow.yml"));
    let path = format!("{}:{path}", python.display());
    let mut run = bench.launch(command, "results", &[("PATH", &path)]);
    assert!(run.finish().success(), "{}", run.log());
    assert_eq!(run.label_maps().len(), 1);
    let areas = fs::read_to_string(bench.path("results/areas.csv")).unwrap();
    assert!(areas.lines().count() > 4, "{areas}");
}
