//! `spsam evaluate`: the truth defines the cases, and missing predictions count.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::volumes::Nifti;

/// A row of ten voxels.
fn volume(path: &Path, labels: [u8; 10]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Nifti::u8(&[10, 1, 1], labels.to_vec()).write(path);
}

const BLOB: [u8; 10] = [0, 0, 1, 1, 1, 1, 0, 0, 0, 0];
const MOVED: [u8; 10] = [0, 0, 0, 1, 1, 1, 1, 0, 0, 0];
const NOTHING: [u8; 10] = [0; 10];

fn evaluate(folder: &Path, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_spsam"))
        .current_dir(folder)
        .env_remove("SPSAM_IGNORE_LABELS")
        .args(["evaluate", "--predictions", "pred", "--labels", "truth"])
        .args(arguments)
        .output()
        .unwrap();
    let said = [&*output.stdout, &*output.stderr].concat();
    (output, String::from_utf8(said).unwrap())
}

fn has(said: &str, expected: &[&str]) {
    for text in expected {
        assert!(said.contains(text), "`{text}` is not in:\n{said}");
    }
}

#[test]
fn a_missing_prediction_is_named_and_counts_with_dice_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["case_1", "case_2", "case_3"] {
        volume(&path(&format!("truth/{name}.nii")), BLOB);
    }
    volume(&path("pred/case_1.nii"), BLOB);
    volume(&path("pred/case_2.nii"), BLOB);
    volume(&path("pred/case_9.nii"), BLOB);
    let (output, said) = evaluate(folder.path(), &["--output", "out"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    has(
        &said,
        &[
            "case_3 class_1: Dice 0.0000, HD95 inf mm, NSD 0.0000 (no prediction)",
            "mean Dice 0.6667 over 3 cases (missing: 1)",
            "class_1: mean Dice 0.6667 over 3 cases (absent: 0)",
            "mm over 2 cases (missed: 1",
            "have no prediction in pred and count with Dice 0: case_3",
            "case_9.nii: the truth has no such case",
        ],
    );
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["missing"], serde_json::json!(["case_3"]));
    let class = &summary["classes"]["class_1"];
    assert_eq!(
        (&class["hd95_mm"], &class["hd95_cases"], &class["missed"]),
        (&0.0.into(), &2.into(), &1.into())
    );
    let diagonal = (10f64 * 10.0 + 1.0 + 1.0).sqrt();
    let mean = class["hd95_mm_one_sided_as_diagonal"].as_f64().unwrap();
    assert!((mean - diagonal / 3.0).abs() < 1e-9, "{mean}");
}

#[test]
fn a_figure_gets_worse_when_a_structure_is_missed() {
    let mean = |prediction| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, labels) in [("a", BLOB), ("b", prediction)] {
            volume(&path(&format!("truth/{name}.nii")), BLOB);
            volume(&path(&format!("pred/{name}.nii")), labels);
        }
        let (output, said) = evaluate(folder.path(), &["--output", "out"]);
        assert!(output.status.success(), "{said}");
        let text = fs::read_to_string(path("out/summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(!text.contains("NaN") && !text.contains("Infinity"));
        let class = &summary["classes"]["class_1"];
        [&class["hd95_mm"], &class["hd95_mm_one_sided_as_diagonal"]].map(|mean| mean.as_f64().unwrap())
    };
    let (moved, missed) = (mean(MOVED), mean(NOTHING));
    assert!(missed[0] < moved[0] && missed[1] > moved[1], "{moved:?} {missed:?}");
}

#[test]
fn predictions_are_found_whatever_they_are_called() {
    for (truth, prediction) in [
        ("case_1_seg", "case_1_seg"),
        ("case_1_gt", "case_1"),
        ("case_1", "case_1_seg"),
        ("label0001", "img0001"),
        ("label0001", "label0001"),
        ("case_1", "case_1_pred"),
        ("x/image", "x_image"),
        ("x/image", "x/image"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        volume(&folder.path().join(format!("truth/{truth}.nii")), BLOB);
        volume(&folder.path().join(format!("pred/{prediction}.nii")), BLOB);
        let (output, said) = evaluate(folder.path(), &[]);
        assert!(output.status.success(), "{truth} {prediction}: {said}");
        has(&said, &["mean Dice 1.0000 over 1 cases (missing: 0)"]);
    }
}

#[test]
fn names_that_come_twice_are_told_apart_by_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    volume(&path("truth/x/image.nii"), BLOB);
    volume(&path("truth/y/image.nii"), MOVED);
    volume(&path("pred/y/image.nii"), MOVED);
    let (output, said) = evaluate(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    has(
        &said,
        &["x_image class_1: Dice 0.0000", "y_image class_1: Dice 1.0000", "mean Dice 0.5000 over 2 cases"],
    );
}

#[test]
fn two_files_for_one_case_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    volume(&path("truth/a.nii"), BLOB);
    volume(&path("pred/a_seg.nii"), BLOB);
    volume(&path("pred/a_gt.nii"), BLOB);
    let (output, said) = evaluate(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    has(&said, &["a_gt.nii", "a_seg.nii"]);
}

#[test]
fn values_with_gaps_are_the_classes() {
    let folder = tempfile::tempdir().unwrap();
    for side in ["truth", "pred"] {
        volume(&folder.path().join(side).join("a.nii"), [0, 7, 7, 250, 250, 0, 0, 0, 0, 0]);
    }
    let (output, said) = evaluate(folder.path(), &[]);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("a ")).count(), 2, "{said}");
    has(&said, &["a class_7: Dice 1.0000", "a class_250: Dice 1.0000"]);
    let (_, said) = evaluate(folder.path(), &["--classes", "7=liver,250=spleen"]);
    has(&said, &["a liver: Dice 1.0000", "a spleen: Dice 1.0000"]);
    let (output, said) = evaluate(folder.path(), &["--classes", "background,liver"]);
    assert_eq!(output.status.code(), Some(1));
    has(&said, &["truth/a.nii: label"]);
}

#[test]
fn ignored_voxels_count_nowhere_and_255_is_not_taken_for_a_class() {
    let folder = tempfile::tempdir().unwrap();
    volume(&folder.path().join("truth/a.nii"), [0, 1, 1, 255, 255, 0, 0, 0, 0, 0]);
    volume(&folder.path().join("pred/a.nii"), [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
    for classes in [&[][..], &["--classes", "background,blob"]] {
        let (output, said) = evaluate(folder.path(), classes);
        assert_eq!(output.status.code(), Some(1), "{said}");
        has(&said, &["truth/a.nii: label 255", "--ignore 255"]);
    }
    let (output, said) = evaluate(folder.path(), &["--ignore", "255"]);
    assert!(output.status.success(), "{said}");
    has(&said, &["a class_1: Dice 1.0000, HD95 0.000 mm, NSD 1.0000"]);
    let (_, said) = evaluate(folder.path(), &["--classes", "background,blob,255=void"]);
    has(&said, &["a void: Dice 0.0000"]);
}

#[test]
fn values_that_cannot_be_written_are_named_with_their_file() {
    let folder = tempfile::tempdir().unwrap();
    volume(&folder.path().join("truth/a.nii"), BLOB);
    let values: Vec<f32> = [2035.0; 10].to_vec();
    fs::create_dir(folder.path().join("pred")).unwrap();
    Nifti::f32(&[10, 1, 1], &values).write(&folder.path().join("pred/a.nii"));
    let (output, said) = evaluate(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    has(&said, &["pred/a.nii: label 2035", "8-bit"]);
}

#[test]
fn one_prediction_is_judged_by_the_truth_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    volume(&path("truth/a.nii"), BLOB);
    volume(&path("truth/b.nii"), MOVED);
    volume(&path("b.nii"), BLOB);
    let run = |truth: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_spsam"))
            .current_dir(folder.path())
            .args(["evaluate", "--predictions", "b.nii", "--labels", truth])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (truth, dice) in [("truth", "0.7500"), ("truth/a.nii", "1.0000")] {
        let (is_good, said) = run(truth);
        assert!(is_good, "{said}");
        has(&said, &[&format!("mean Dice {dice} over 1 cases")]);
    }
}

#[test]
fn a_folder_of_masks_is_a_case() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for case in ["s1", "s2"] {
        volume(&path(&format!("truth/{case}/segmentations/liver.nii")), BLOB);
        volume(&path(&format!("truth/{case}/segmentations/spleen.nii")), [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        volume(&path(&format!("truth/{case}/ct.nii")), [9; 10]);
        volume(&path(&format!("masks/{case}/liver.nii")), MOVED);
        volume(&path(&format!("masks/{case}/spleen.nii")), [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    volume(&path("pred/s1.nii"), [2, 2, 1, 1, 1, 1, 0, 0, 0, 0]);
    volume(&path("pred/s2.nii"), [2, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
    let run = |predictions: &str, truth: &str, classes: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spsam"));
        command.current_dir(folder.path());
        command.args(["evaluate", "--predictions", predictions, "--labels", truth]).args(classes);
        let output = command.output().unwrap();
        let said = [&*output.stdout, &*output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run("masks", "masks", &[]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["s1 liver: Dice 1.0000", "s2 spleen: Dice 1.0000", "over 2 cases (missing: 0)"]);
    let (code, said) = run("masks", "truth", &[]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["s1 liver: Dice 0.7500", "s2 spleen: Dice 1.0000", "over 2 cases (missing: 0)"]);
    let (code, said) = run("pred", "truth", &["--classes", "background,liver,spleen"]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["s1 liver: Dice 1.0000", "s1 spleen: Dice 1.0000", "s2 spleen: Dice 0.6667"]);
    let (code, said) = run("pred", "truth", &[]);
    assert_eq!(code, Some(1), "{said}");
    has(&said, &["s1.nii", "--classes"]);
}

#[test]
fn figures_overwrite_only_earlier_figures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    volume(&path("truth/a.nii"), BLOB);
    volume(&path("pred/a.nii"), BLOB);
    fs::create_dir(path("out")).unwrap();
    fs::write(path("out/metrics.csv"), "theirs").unwrap();
    let (output, said) = evaluate(folder.path(), &["--output", "out"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    has(&said, &["out/metrics.csv", "--overwrite"]);
    assert_eq!(fs::read_to_string(path("out/metrics.csv")).unwrap(), "theirs");
    for arguments in [&["--output", "out", "--overwrite"][..], &["--output", "out"]] {
        let (output, said) = evaluate(folder.path(), arguments);
        assert!(output.status.success(), "{said}");
    }
}
