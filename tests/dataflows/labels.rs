//! Label values, file names and the guard of the output folder, from the command to the label maps.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ndarray::Array3;
use self_prompt_sam::volume::{ClassTable, read_labels, write_labels};

use super::harness::{Bench, Run, project};

/// `spsam infer` with plain LiteMedSAM and prompts from labels.
fn infer(bench: &Bench, output: &str, arguments: &[&OsStr]) -> Run {
    let mut command = Command::new(project().join("target/release/spsam"));
    command.arg("infer").args(arguments).arg("--output").arg(bench.path(output));
    command.args(["--dataflow"]).arg(bench.dataflow("dataflows/oracle.yml", |text| text));
    bench.launch(command, output, &[("SPSAM_MODEL", ""), ("SPSAM_IGNORE_LABELS", "")])
}

/// Writes the labels of a case with other values, next to its image.
fn relabelled(bench: &Bench, name: &str, values: impl Fn(u8) -> u8) -> PathBuf {
    let path = bench.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (labels, _) = read_labels(&bench.path("labels/case_0.nii.gz")).unwrap();
    // Indices in this table equal the values.
    let table = ClassTable::of_values(1..=u8::MAX);
    write_labels(&path, &labels.mapv(values), &bench.path("images/case_0.nii.gz"), &table).unwrap();
    path
}

fn result(bench: &Bench, output: &str, name: &OsStr) -> Array3<u8> {
    read_labels(&bench.path(output).join(name)).unwrap().0
}

fn arguments<'a>(input: &'a Path, labels: &'a Path) -> [&'a OsStr; 4] {
    ["--input".as_ref(), input.as_os_str(), "--labels".as_ref(), labels.as_os_str()]
}

#[test]
fn labels_keep_their_values_whatever_their_files_are_called() {
    let bench = Bench::new(1, 4);
    let image = bench.path("images/case_0.nii.gz");
    let labels = bench.path("labels/case_0.nii.gz");
    let mut run = infer(&bench, "plain", &arguments(&image, &labels));
    assert!(run.finish().success(), "{}", run.log());
    let plain = result(&bench, "plain", "case_0.nii.gz".as_ref());
    assert!(plain.iter().any(|&label| label == 2));

    // The same, with gaps between the values, and a name that shells, YAML and dora may misread.
    let strange = OsStr::from_bytes(b"$HOME ${SPSAM_X:-a} \"b\" 'c' back\\slash\nline caf\xe9.nii.gz");
    let folder = bench.path("$scans");
    fs::create_dir(&folder).unwrap();
    fs::copy(&image, folder.join(strange)).unwrap();
    let gaps = relabelled(&bench, "gaps.nii.gz", |label| [0, 7, 250][usize::from(label)]);
    let mut run = infer(&bench, "$gaps", &arguments(&folder, &gaps));
    assert!(run.finish().success(), "{}", run.log());
    let name = format!("{}.nii.gz", strange.to_string_lossy().trim_end_matches(".nii.gz"));
    let found = result(&bench, "$gaps", name.as_ref());
    assert_eq!(found, plain.mapv(|label| [0, 7, 250][usize::from(label)]));
    let summary = run.summary();
    assert_eq!(summary["model"]["classes"], serde_json::json!(["background", "class_7", "class_250"]));
    assert_eq!(summary["model"]["label_values"], serde_json::json!([0, 7, 250]));
    let classes = summary["classes"].as_object().unwrap();
    assert_eq!(classes.keys().collect::<Vec<_>>(), ["class_7", "class_250"]);
}

#[test]
fn only_results_of_earlier_runs_are_overwritten() {
    let bench = Bench::new(1, 4);
    let (images, labels) = (bench.path("images"), bench.path("labels"));
    let truth = fs::read(labels.join("case_0.nii.gz")).unwrap();
    // The output folder contains the run's own truth, or others' files: refused, with and without the option.
    let mut onto_truth = infer(&bench, "labels", &arguments(&images, &labels));
    assert!(!onto_truth.finish().success());
    assert!(onto_truth.log().contains("labels/case_0.nii.gz"), "{}", onto_truth.log());
    fs::create_dir(bench.path("others")).unwrap();
    fs::copy(labels.join("case_0.nii.gz"), bench.path("others/case_0.nii.gz")).unwrap();
    let mut onto_others = infer(&bench, "others", &arguments(&images, &labels));
    assert!(!onto_others.finish().success());
    assert!(onto_others.log().contains("--overwrite"), "{}", onto_others.log());
    assert_eq!(fs::read(labels.join("case_0.nii.gz")).unwrap(), truth);
    assert_eq!(fs::read(bench.path("others/case_0.nii.gz")).unwrap(), truth);

    for _ in 0..2 {
        let mut again = infer(&bench, "out", &arguments(&images, &labels));
        assert!(again.finish().success(), "{}", again.log());
    }
    relabelled(&bench, "out/case_0.nii.gz", |label| label); // somebody has corrected it
    let mut onto_correction = infer(&bench, "out", &arguments(&images, &labels));
    assert!(!onto_correction.finish().success());
    let overwrite = [&arguments(&images, &labels)[..], &["--overwrite".as_ref()]].concat();
    let mut on_demand = infer(&bench, "out", &overwrite);
    assert!(on_demand.finish().success(), "{}", on_demand.log());
}

#[test]
fn a_bad_line_of_a_list_fails_alone() {
    let bench = Bench::new(2, 4);
    let list = bench.path("list.txt");
    fs::write(&list, b"\xef\xbb\xbfimages/case_0.nii.gz\r\nimages/gone.nii.gz\r\nimages/case_1.nii.gz\r\n")
        .unwrap();
    let labels = bench.path("labels");
    let mut run = infer(&bench, "out", &arguments(&list, &labels));
    assert!(!run.finish().success());
    assert!(run.log().contains("list.txt: line 2, `images/gone.nii.gz`"), "{}", run.log());
    assert_eq!(run.label_maps().len(), 2, "{}", run.log());
    assert_eq!(run.summary()["failed"][0]["case"], "gone");
}
