//! The dataset layouts, made of empty files, and the real ones where they are at hand.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::path::{Path, PathBuf};

use self_prompt_sam::bundle::{Normalisation, Plane};
use self_prompt_sam::volume::{CaseFiles, CasePlan, PreparedCase, VolumeError, discover, read_labels};

use crate::skip::skipped;
use crate::volumes::{config, identity_segmentation};

/// A folder with empty files.
fn layout(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
    folder
}

/// `case: image image | labels` relative to the folder.
fn listed(folder: &Path, cases: &[CaseFiles]) -> Vec<String> {
    let name = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
    cases
        .iter()
        .map(|case| {
            let images: Vec<_> = case.images.iter().map(|path| name(path)).collect();
            let labels = case.labels.as_ref().map_or("-".into(), |labels| name(labels.path()));
            format!("{}: {} | {labels}", case.case_id, images.join(" "))
        })
        .collect()
}

#[test]
fn decathlon_layout() {
    let folder = layout(&[
        "dataset.json",
        "imagesTr/brain_10.nii.gz",
        "imagesTr/brain_9.nii.gz",
        "imagesTr/._brain_9.nii.gz",
        "labelsTr/brain_9.nii.gz",
        "labelsTr/brain_10.nii.gz",
        "labelsTr/._brain_10.nii.gz",
        "imagesTs/brain_11.nii.gz",
    ]);
    let root = folder.path();
    let expected = [
        "brain_9: imagesTr/brain_9.nii.gz | labelsTr/brain_9.nii.gz",
        "brain_10: imagesTr/brain_10.nii.gz | labelsTr/brain_10.nii.gz",
    ];
    let images = root.join("imagesTr");
    for input in [root, &root.join("dataset.json"), &images] {
        for labels in [root, &root.join("labelsTr")] {
            assert_eq!(listed(root, &discover(input, Some(labels), 4).unwrap()), expected);
        }
    }
    let unlabelled = discover(&root.join("imagesTs"), None, 1).unwrap();
    assert_eq!(listed(root, &unlabelled), ["brain_11: imagesTs/brain_11.nii.gz | -"]);
    let error = discover(&root.join("imagesTs"), Some(root), 1).unwrap_err().to_string();
    assert!(error.ends_with("no labels for case brain_11"), "{error}");
}

#[test]
fn nnunet_layout() {
    let folder = layout(&[
        "imagesTr/prostate_00_0000.nii.gz",
        "imagesTr/prostate_00_0001.nii.gz",
        "imagesTr/prostate_02_0001.nii.gz",
        "imagesTr/prostate_02_0000.nii.gz",
        "labelsTr/prostate_00.nii.gz",
        "labelsTr/prostate_02.nii.gz",
    ]);
    let root = folder.path();
    let expected = [
        "prostate_00: imagesTr/prostate_00_0000.nii.gz imagesTr/prostate_00_0001.nii.gz | labelsTr/prostate_00.nii.gz",
        "prostate_02: imagesTr/prostate_02_0000.nii.gz imagesTr/prostate_02_0001.nii.gz | labelsTr/prostate_02.nii.gz",
    ];
    assert_eq!(listed(root, &discover(root, Some(root), 2).unwrap()), expected);
    let error = discover(root, None, 1).unwrap_err();
    assert!(matches!(error, VolumeError::Modalities { found: 2, expected: 1, .. }), "{error}");
    assert!(error.to_string().contains("nnU-Net"), "{error}");
}

#[test]
fn acdc_layout() {
    let folder = layout(&[
        "patient002/patient002_frame01.nii.gz",
        "patient002/patient002_frame01_gt.nii.gz",
        "patient001/patient001_frame12.nii.gz",
        "patient001/patient001_frame12_gt.nii.gz",
        "patient001/patient001_4d.nii.gz",
        "patient001/Info.cfg",
    ]);
    let root = folder.path();
    let expected = [
        "patient001_frame12: patient001/patient001_frame12.nii.gz | patient001/patient001_frame12_gt.nii.gz",
        "patient002_frame01: patient002/patient002_frame01.nii.gz | patient002/patient002_frame01_gt.nii.gz",
    ];
    assert_eq!(listed(root, &discover(root, Some(root), 1).unwrap()), expected);
    let one = discover(&root.join("patient002"), Some(&root.join("patient002")), 1).unwrap();
    assert_eq!(listed(root, &one), expected[1..]);
    std::fs::write(
        root.join("split.txt"),
        "# validation\npatient002\npatient001/patient001_frame12.nii.gz\n",
    )
    .unwrap();
    let listed_cases = discover(&root.join("split.txt"), Some(root), 1).unwrap();
    assert_eq!(listed(root, &listed_cases), expected);
    std::fs::write(root.join("split.txt"), "patient003\n").unwrap();
    let error = discover(&root.join("split.txt"), Some(root), 1).unwrap_err().to_string();
    assert!(error.contains("patient003"), "{error}");
}

#[test]
fn synapse_layouts() {
    for (images, labels) in [("img", "label"), ("imagesTr", "labelsTr"), (".", ".")] {
        let files: Vec<String> = [1, 10, 2]
            .iter()
            .flat_map(|n| [format!("{images}/img{n:04}.nii.gz"), format!("{labels}/label{n:04}.nii.gz")])
            .collect();
        let folder = layout(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let cases = discover(folder.path(), Some(folder.path()), 1).unwrap();
        let names: Vec<_> = cases.iter().map(|case| case.case_id.as_str()).collect();
        assert_eq!(names, ["img0001", "img0002", "img0010"]);
        for case in &cases {
            let labels = case.labels.as_ref().unwrap().path().file_name().unwrap().to_str().unwrap();
            assert_eq!(labels, format!("{}.nii.gz", case.case_id.replace("img", "label")));
        }
    }
}

#[test]
fn plain_files_and_folders() {
    let folder =
        layout(&["a/scan_0001.nii", "a/scan_0002.nii", "b/x/image.nii.gz", "b/y/image.nii.gz", "t.nii.gz"]);
    let root = folder.path();
    let numbered = discover(&root.join("a"), None, 1).unwrap();
    assert_eq!(listed(root, &numbered), ["scan_0001: a/scan_0001.nii | -", "scan_0002: a/scan_0002.nii | -"]);
    let nested = discover(&root.join("b"), None, 1).unwrap();
    assert_eq!(listed(root, &nested), ["x_image: b/x/image.nii.gz | -", "y_image: b/y/image.nii.gz | -"]);
    let single = discover(&root.join("a/scan_0001.nii"), Some(&root.join("t.nii.gz")), 1).unwrap();
    assert_eq!(listed(root, &single), ["scan_0001: a/scan_0001.nii | t.nii.gz"]);
}

fn real(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SPSAM_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let folder = root.join(name);
    if !folder.is_dir() {
        skipped(&format!("needs the data set {name}: SPSAM_DATA names the folder that holds it"));
        return None;
    }
    Some(folder)
}

#[test]
fn real_hippocampus() {
    let Some(folder) = real("Task04_Hippocampus") else { return };
    let cases = discover(&folder, Some(&folder), 1).unwrap();
    assert_eq!(cases.len(), 208);
    let images = discover(&folder.join("imagesTr"), Some(&folder.join("labelsTr")), 1).unwrap();
    assert_eq!(images, cases);
    let mut config = config(1, Plane::Window([48, 64]), 8);
    config.normalisation = Normalisation::ZScore;
    comes_back(&cases[..5], &config);
}

#[test]
fn real_acdc() {
    let Some(folder) = real("ACDC") else { return };
    let cases = discover(&folder, Some(&folder), 1).unwrap();
    assert_eq!(cases.len(), 160);
    let patient = discover(&folder.join("patient001"), Some(&folder), 1).unwrap();
    assert_eq!(patient, cases[..2]);
    let mut config = config(1, Plane::Window([128, 128]), 4);
    config.normalisation = Normalisation::Percentile { low: 0.5, high: 99.5 };
    comes_back(&cases[..3], &config);
}

#[test]
fn real_ct() {
    let Some(folder) = real("ct_sample") else { return };
    let cases = discover(&folder, None, 1).unwrap();
    assert_eq!((cases.len(), cases[0].case_id.as_str()), (1, "example_ct_sm"));
    let mut config = config(1, Plane::WholeSlice(256), 8);
    config.normalisation = Normalisation::Window { low: -160.0, high: 240.0 };
    let plan = CasePlan::new(&cases[0], &config, None).unwrap();
    assert_eq!(plan.network_shape, [30, 212, 256]);
    let window = PreparedCase::open(&plan, &config).unwrap().window(0);
    assert!(window.iter().all(|value| (0.0..=1.0).contains(value)));
    assert!(window.iter().any(|&value| value > 0.5));
}

fn comes_back(cases: &[CaseFiles], config: &self_prompt_sam::bundle::BundleConfig) {
    for case in cases {
        let plan = CasePlan::new(case, config, None).unwrap();
        let prepared = PreparedCase::open(&plan, config).unwrap();
        assert!(prepared.window(0).iter().all(|value| value.is_finite()));
        let truth = read_labels(case.labels.as_ref().unwrap().path()).unwrap().0;
        assert_eq!(identity_segmentation(&plan, &prepared, 4), truth, "{}", case.case_id);
    }
}
