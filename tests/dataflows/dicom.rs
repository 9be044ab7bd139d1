//! A DICOM series is segmented as its NIfTI is.

use std::path::{Path, PathBuf};
use std::process::Command;

use self_prompt_sam::volume::{Header, read_labels};

use super::harness::{Bench, project, python};
use super::skip::shortened;

/// The exit code of the checking script if its program is not installed.
const NOT_INSTALLED: i32 = 77;

#[test]
fn a_dicom_series_has_the_labels_of_its_nifti() {
    let bench = Bench::new(1, 6);
    let image = bench.path("images/case_0.nii.gz");
    let (series, converted) = (bench.path("study/head"), bench.path("converted"));
    let status = Command::new(python())
        .arg(project().join("tests/python/dicom_of_nifti.py"))
        .args([&image, &series, &converted])
        .status()
        .unwrap();
    assert!(status.success());
    let nifti = match converted.is_dir() {
        true => converted.join("head.nii"),
        false => {
            shortened(
                "dcm2niix is not installed: the series is compared with the volume that it was made from",
            );
            std::fs::create_dir(&converted).unwrap();
            std::fs::copy(&image, converted.join("head.nii.gz")).unwrap();
            converted.join("head.nii.gz")
        }
    };
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let segmented = |input: &Path, output: &str| {
        let input = input.to_str().unwrap();
        let mut run = bench.start(&flow, output, &[("SPSAM_INPUT", input), ("SPSAM_LABELS", "")]);
        assert!(run.finish().success(), "{}", run.log());
        assert!(!run.log().to_lowercase().contains("secret"), "{}", run.log());
        let path = bench.path(output).join("head.nii.gz");
        (read_labels(&path).unwrap().0, Header::read(&path).unwrap().world_from_voxel(), run.label_maps())
    };
    let (found, world, maps) = segmented(&bench.path("study"), "of_dicom");
    assert_eq!(maps.len(), 1);
    check_segmentation(&bench, &bench.path("of_dicom"), "head");
    let record = std::fs::read_to_string(bench.path("of_dicom/.spsam.json")).unwrap();
    assert!(record.contains("head.seg.dcm"), "{record}");
    check_live(&bench);
    let (expected, expected_world, _) = segmented(&nifti, "of_nifti");
    assert!(expected.iter().any(|&label| label != 0), "nothing to compare");
    assert!(!bench.path("of_nifti/head.seg.dcm").exists());
    if converted.join("head.nii").exists() {
        assert_eq!(world, expected_world);
        assert_eq!(found, expected);
    } else {
        // The volume's rows are stored from the first to the last, those of a series from the last to the first.
        let mut flipped = expected;
        flipped.invert_axis(ndarray::Axis(1));
        assert_eq!(found, flipped);
    }
}

/// The DICOM segmentation beside the label map has its voxels.
fn check_segmentation(bench: &Bench, result: &Path, case: &str) {
    let check = bench.path(&format!("check-{case}"));
    std::fs::create_dir_all(check.join("series")).unwrap();
    std::os::unix::fs::symlink(bench.path("study/head"), check.join("series").join(case)).unwrap();
    std::os::unix::fs::symlink(result, check.join("result")).unwrap();
    let script = project().join("tests/python/dicom_seg.py");
    for mode in ["attributes", "highdicom"] {
        let output = Command::new(python()).arg(&script).arg(mode).arg(&check).output().unwrap();
        match output.status.code() {
            Some(NOT_INSTALLED) => shortened(&format!("{mode} is not installed")),
            code => assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&output.stdout)),
        }
    }
}

/// Fails unless two DICOM segmentations are equal but for their identifiers and times.
pub fn assert_same_segmentation(a: &Path, b: &Path) {
    let script = project().join("tests/python/same_segmentation.py");
    let output = Command::new(python()).arg(script).args([a, b]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Fails if `dciodvfy` finds an error in a DICOM segmentation.
pub fn assert_valid(path: &Path) {
    let Ok(output) = Command::new("dciodvfy").arg(path).output() else {
        return shortened("dciodvfy (dicom3tools) is not installed");
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("Segmentation") && !said.contains("Error"), "{said}");
}

/// The DICOM segmentations in a folder.
pub fn segmentations(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(".seg.dcm")).collect();
    found.sort();
    found
}

/// The series in a watched folder, segmented live, has the same label map and the same DICOM segmentation.
fn check_live(bench: &Bench) {
    let mut command = Command::new(project().join("target/release/spsam"));
    command.args(["stream", "--listen", "off", "--series", "1", "--idle", "2", "--watch"]);
    command.arg(bench.path("study")).arg("--model").arg(bench.path("bundle"));
    command.arg("--output").arg(bench.path("live"));
    let mut run = bench.launch(command, "live", &[]);
    assert!(run.finish().success(), "{}", run.log());
    assert!(!run.log().to_lowercase().contains("secret"), "{}", run.log());
    let maps = run.label_maps();
    assert_eq!(maps.len(), 1, "{:?}", maps.keys());
    let offline = std::fs::read(bench.path("of_dicom/head.nii.gz")).unwrap();
    assert!(maps.values().all(|map| *map == offline), "the label map is not that of an offline run");
    let case = maps.keys().next().unwrap().strip_suffix(".nii.gz").unwrap();
    let segmentation = bench.path("live").join(format!("{case}.seg.dcm"));
    assert_eq!(segmentations(&bench.path("live")), std::slice::from_ref(&segmentation));
    assert_same_segmentation(&segmentation, &bench.path("of_dicom/head.seg.dcm"));
    assert_valid(&segmentation);
    check_segmentation(bench, &bench.path("live"), case);
}
