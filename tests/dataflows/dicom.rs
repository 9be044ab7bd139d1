//! A DICOM series is segmented as its NIfTI is.

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
    let segmented = |input: &std::path::Path, output: &str| {
        let input = input.to_str().unwrap();
        let mut run = bench.start(&flow, output, &[("SPSAM_INPUT", input), ("SPSAM_LABELS", "")]);
        assert!(run.finish().success(), "{}", run.log());
        assert!(!run.log().to_lowercase().contains("secret"), "{}", run.log());
        let path = bench.path(output).join("head.nii.gz");
        (read_labels(&path).unwrap().0, Header::read(&path).unwrap().world_from_voxel(), run.label_maps())
    };
    let (found, world, maps) = segmented(&bench.path("study"), "of_dicom");
    assert_eq!(maps.len(), 1);
    check_segmentation(&bench);
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
fn check_segmentation(bench: &Bench) {
    let check = bench.path("check");
    std::fs::create_dir(&check).unwrap();
    for (link, to) in [("series", "study"), ("result", "of_dicom")] {
        std::os::unix::fs::symlink(bench.path(to), check.join(link)).unwrap();
    }
    let script = project().join("tests/python/dicom_seg.py");
    for mode in ["attributes", "highdicom"] {
        let output = Command::new(python()).arg(&script).arg(mode).arg(&check).output().unwrap();
        match output.status.code() {
            Some(NOT_INSTALLED) => shortened(&format!("{mode} is not installed")),
            code => assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&output.stdout)),
        }
    }
    let record = std::fs::read_to_string(bench.path("of_dicom/.spsam.json")).unwrap();
    assert!(record.contains("head.seg.dcm"), "{record}");
}

/// The series in a watched folder, segmented live, has the same label map.
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
    assert!(maps.into_values().all(|map| map == offline), "the label map is not that of an offline run");
}
