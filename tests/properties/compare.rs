//! `spsam compare`: two results of the same cases, none of which is the truth.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::volumes::Nifti;

/// A row of ten voxels of 1 mm³.
fn volume(path: &Path, values: [u8; 10]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Nifti::u8(&[10, 1, 1], values.to_vec()).write(path);
}

const ORGAN: [u8; 10] = [0, 0, 7, 7, 7, 7, 0, 0, 0, 0];
const LARGER: [u8; 10] = [0, 0, 7, 7, 7, 7, 7, 7, 0, 0];

fn compare(folder: &Path, arguments: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spsam"));
    let output = command.current_dir(folder).args(["compare", "a", "b"]).args(arguments).output().unwrap();
    let said = [&*output.stdout, &*output.stderr].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn two_results_are_compared_by_class_on_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    volume(&path("a/one.nii"), ORGAN);
    volume(&path("b/one.nii"), LARGER);
    // As a live run leaves them: images of the same name beside label maps, and the classes of the model.
    volume(&path("a/images/one.nii"), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    let summary = r#"{"model": {"classes": ["background", "spleen"], "label_values": [0, 7]}}"#;
    fs::write(path("b/summary.json"), summary).unwrap();
    let (output, said) = compare(folder.path(), &[]);
    assert!(output.status.success(), "{said}");
    // Dice 2 · 4 / (4 + 6).
    assert!(said.contains("one spleen: Dice 0.8000"), "{said}");
    assert!(said.contains("0.00 ml in A, 0.01 ml in B"), "{said}");
    assert!(said.contains("mean Dice 0.8000 over 1 cases"), "{said}");
    let page = fs::read_to_string(path("comparison/comparison.html")).unwrap();
    for text in ["A left, B right", "spleen", "0.8000", "data:image/png;base64,", "Volume ml, A"] {
        assert!(page.contains(text), "{text}");
    }
    let metrics = fs::read_to_string(path("comparison/metrics.csv")).unwrap();
    assert!(metrics.contains("one,spleen,0.8"), "{metrics}");

    // Values that mean something else in each are not compared.
    fs::write(path("a/summary.json"), summary.replace("spleen", "liver")).unwrap();
    let (output, said) = compare(folder.path(), &["--output", "third"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("7=liver") && said.contains("7=spleen") && !path("third").exists(), "{said}");
    fs::remove_file(path("a/summary.json")).unwrap();

    // Without images the page differs, and the figures do not.
    fs::remove_dir_all(path("a/images")).unwrap();
    let (output, said) = compare(folder.path(), &["--output", "other"]);
    assert!(output.status.success() && said.contains("one spleen: Dice 0.8000"), "{said}");
    assert_ne!(fs::read_to_string(path("other/comparison.html")).unwrap(), page);
}

#[test]
fn a_case_that_only_one_result_has_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a/one.nii", "b/one.nii", "a/two.nii", "b/three.nii"] {
        volume(&path(name), ORGAN);
    }
    let (output, said) = compare(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("one class_7: Dice 1.0000"), "{said}");
    assert!(said.contains("not compared: only in A: two; only in B: b/three.nii"), "{said}");
    let page = fs::read_to_string(path("comparison/comparison.html")).unwrap();
    assert!(page.contains("Only in A") && page.contains("b/three.nii"));
}

#[test]
fn results_without_a_case_in_common_are_refused_and_foreign_files_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    volume(&path("a/one.nii"), ORGAN);
    volume(&path("b/two.nii"), ORGAN);
    let (output, said) = compare(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a and b have no case in common"), "{said}");
    assert!(!path("comparison").exists());

    volume(&path("b/one.nii"), ORGAN);
    fs::create_dir(path("comparison")).unwrap();
    fs::write(path("comparison/comparison.html"), "mine").unwrap();
    let (output, said) = compare(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("comparison.html: there already"), "{said}");
    assert_eq!(fs::read_to_string(path("comparison/comparison.html")).unwrap(), "mine");
}
