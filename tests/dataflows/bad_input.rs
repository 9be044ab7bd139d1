//! Nodes refuse impossible settings and files in one line that names the file, key or setting, with a non-zero exit
//! code and without leaving a file. Other tests cover volume files and checkpoints.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::harness::{Bench, project};
use super::nifti::Nifti;

/// Runs a node alone: each of these faults is found before the node joins a dataflow.
fn node(program: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(project().join("target/release").join(program));
    command.env_remove("SPSAM_MODEL").env("SPSAM_DEVICE", "cpu");
    for (name, value) in settings {
        command.env(name, value);
    }
    command.output().unwrap()
}

/// Checks that a node refuses its settings with one line that contains each of `expected`.
fn refuses(program: &str, settings: &[(&str, &str)], expected: &[&str]) {
    let output = node(program, settings);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{program}: {said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{program}: {said}");
    for text in expected {
        assert!(errors[0].contains(text), "{program}: `{text}` is not in: {}", errors[0]);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn wrong_settings_and_files_are_refused_by_name() {
    let bench = Bench::new(1, 4);
    let model = text(&bench.path("bundle"));
    let loader = "spsam-volume-loader";
    refuses(loader, &[("SPSAM_MODEL", &model)], &["SPSAM_INPUT is not set"]);
    let missing = text(&bench.path("missing.nii.gz"));
    refuses(loader, &[("SPSAM_MODEL", &model), ("SPSAM_INPUT", &missing)], &["missing.nii.gz"]);
    let images = text(&bench.path("images"));
    let boxes = [("SPSAM_INPUT", &*images), ("SPSAM_BOXES", "a=1,2,3")];
    refuses(loader, &boxes, &["SPSAM_BOXES", "1,2,3"]);
    let oracle = [("SPSAM_MODEL", &*model), ("SPSAM_INPUT", &*images), ("SPSAM_PROMPT_SOURCE", "labels")];
    refuses(loader, &oracle, &["SPSAM_LABELS"]);
    let window = [("SPSAM_MODEL", &*model), ("SPSAM_INPUT", &*images), ("SPSAM_WINDOW", "two")];
    refuses(loader, &window, &["SPSAM_WINDOW", "two"]);

    let encoder = "spsam-image-encoder";
    let device = [("SPSAM_MODEL", &*model), ("SPSAM_DEVICE", "gpu")];
    refuses(encoder, &device, &["SPSAM_DEVICE", "gpu"]);
    let no_weights = [("SPSAM_WEIGHTS", &*missing)];
    refuses(encoder, &no_weights, &["missing.nii.gz"]);
    refuses("spsam-prompt-generator", &[], &["no prompt generator", "SPSAM_MODEL"]);

    let blocked = bench.path("file");
    fs::write(&blocked, "").unwrap();
    let output = text(&blocked.join("output"));
    let writer = [("SPSAM_MODEL", &*model), ("SPSAM_OUTPUT", &*output)];
    refuses("spsam-metrics-writer", &writer, &[&output]);
}

#[test]
fn labels_that_cannot_be_prompted_with_are_refused_by_name() {
    let bench = Bench::new(1, 4);
    let images = text(&bench.path("images"));
    let path = bench.path("labels.nii");
    let labels = text(&path);
    let with = |values: &[f32], expected: &[&str]| {
        let mut voxels = vec![0.0f32; 64 * 64 * 4];
        voxels[..values.len()].copy_from_slice(values);
        let voxels = voxels.iter().flat_map(|voxel| voxel.to_le_bytes()).collect();
        Nifti::new(&[64, 64, 4], 16, voxels).spaced([1.0, 1.0, 2.5]).write(&path);
        let settings =
            [("SPSAM_INPUT", &*images), ("SPSAM_LABELS", &*labels), ("SPSAM_PROMPT_SOURCE", "labels")];
        refuses("spsam-volume-loader", &settings, expected);
    };
    with(&[1.0, 2035.0], &["labels.nii", "2035"]);
    with(&[1.0, 255.0], &["labels.nii", "255", "--ignore 255"]);
    with(&[1.0, 0.5], &["labels.nii", "0.5"]);
    with(&[0.0], &["labels.nii", "no label but the background"]);
    let many: Vec<f32> = (1..=254).map(|value| value as f32).collect();
    with(&many, &["labels.nii", "255 classes"]);
}

#[test]
fn wrong_bundles_are_refused_by_name() {
    let bench = Bench::new(1, 4);
    let folder = bench.path("bundle");
    let model = text(&folder);
    let yml = folder.join("model.yml");
    let good = fs::read_to_string(&yml).unwrap();
    let with = |text: String, expected: &[&str]| {
        fs::write(&yml, text).unwrap();
        refuses("spsam-image-encoder", &[("SPSAM_MODEL", &model)], expected);
    };
    with(format!("{good}\ncolour: red\n"), &["model.yml", "colour"]);
    with(good.replace("name: test\n", ""), &["model.yml", "name"]);
    with(good.replace("depth: 4", "depth: 0"), &["model.yml", "patch"]);
    with(good.replace("depth_overlap: 0.5", "depth_overlap: 1.5"), &["model.yml", "overlap"]);
    let hash = good.lines().find(|line| line.contains("sha256:")).unwrap();
    with(good.replace(hash, "  sha256: 00"), &["backbone.safetensors", "sha256"]);
    // With twice the depth, the file's depth adapters have the wrong shape.
    with(good.replace("depth: 4", "depth: 8"), &["adapters.safetensors", "depth", "shape"]);
    with(good.replace("adapter: depth_fused", "adapter: none"), &["adapters.safetensors", "unexpected"]);
}
