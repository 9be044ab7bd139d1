//! DICOM segmentations of live series: revisions, and delivery to receivers of other authors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use dicom_object::open_file;

use super::dicom::{assert_same_segmentation, assert_valid, segmentations};
use super::harness::{Bench, Run, project, python};
use super::scanner::dcmtk;
use super::send::{Storescp, free_address, spsam};
use super::skip::skipped;

const SLICES: usize = 6;
const PATIENCE: Duration = Duration::from_secs(120);

/// The volume of the bench as a DICOM series in `study/head`; its files in the order of their places.
fn series(bench: &Bench) -> Vec<PathBuf> {
    let folder = bench.path("study/head");
    let status = Command::new(python())
        .arg(project().join("tests/python/dicom_of_nifti.py"))
        .args([&bench.path("images/case_0.nii.gz"), &folder, &bench.path("converted")])
        .status()
        .unwrap();
    assert!(status.success());
    let place = |path: &PathBuf| -> f64 {
        let position = open_file(path).unwrap();
        let position = position.element_by_name("ImagePositionPatient").unwrap().to_multi_float64().unwrap();
        position[2]
    };
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by(|a, b| place(a).total_cmp(&place(b)));
    files
}

fn stream(bench: &Bench, output: &str, series: usize, more: &[&str]) -> Run {
    let watch = bench.path("watch");
    fs::create_dir_all(&watch).unwrap();
    let mut command = spsam();
    command.args(["stream", "--listen", "off", "--view", "off", "--idle", "2"]);
    command.arg("--series").arg(series.to_string()).arg("--watch").arg(watch).args(more);
    command.arg("--model").arg(bench.path("bundle")).arg("--output").arg(bench.path(output));
    bench.launch(command, output, &[])
}

/// Puts files into the watched folder.
fn arrive(bench: &Bench, files: &[PathBuf]) {
    for file in files {
        let name = file.file_name().unwrap();
        let part = bench.path("part");
        fs::copy(file, &part).unwrap();
        fs::rename(part, bench.path("watch").join(name)).unwrap();
    }
}

fn waiting(bench: &Bench, output: &str) -> Vec<PathBuf> {
    segmentations(&bench.path(output).join(".outbox"))
}

fn wait_until(what: &str, run: &Run, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "no {what}; log:\n{}", run.log());
        thread::sleep(Duration::from_millis(50));
    }
}

fn uid(path: &Path) -> String {
    open_file(path).unwrap().element_by_name("SOPInstanceUID").unwrap().to_str().unwrap().into_owned()
}

/// Paths of the files in a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_late_image_replaces_the_segmentation_of_its_series() {
    let bench = Bench::new(1, SLICES);
    let files = series(&bench);
    let mut run = stream(&bench, "live", 2, &[]);
    arrive(&bench, &files[..SLICES - 1]);
    run.wait_until("the first segmentation", |_| segmentations(&bench.path("live")).len() == 1);
    let segmentation = segmentations(&bench.path("live")).remove(0);
    let first = uid(&segmentation);
    run.wait_for("is written");
    arrive(&bench, &files[SLICES - 1..]);
    assert!(run.finish().success(), "{}", run.log());
    assert!(!run.log().to_lowercase().contains("secret"), "{}", run.log());
    assert_eq!(run.label_maps().len(), 2);
    assert_eq!(segmentations(&bench.path("live")), std::slice::from_ref(&segmentation));
    assert_ne!(uid(&segmentation), first);
    assert_valid(&segmentation);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let study = bench.path("study");
    let mut offline =
        bench.start(&flow, "offline", &[("SPSAM_INPUT", study.to_str().unwrap()), ("SPSAM_LABELS", "")]);
    assert!(offline.finish().success(), "{}", offline.log());
    assert_same_segmentation(&segmentation, &bench.path("offline/head.seg.dcm"));
}

#[test]
fn a_segmentation_arrives_once_although_receiver_and_node_were_down() {
    let Some(storescp) = dcmtk("storescp") else {
        return skipped("needs the Debian package dcmtk");
    };
    let bench = Bench::new(1, SLICES);
    let all = series(&bench);
    let (address, received) = (free_address(), bench.path("received"));
    let to = format!("ARCHIVE@{address}");
    // The run ends before the receiver is there.
    let mut run = stream(&bench, "live", 1, &["--send-to", &to]);
    arrive(&bench, &all);
    assert!(run.finish().success(), "{}", run.log());
    assert!(run.log().contains("not sent yet: 1;"), "{}", run.log());
    let segmentation = segmentations(&bench.path("live")).remove(0);
    assert_eq!(waiting(&bench, "live").len(), 1);
    // In the next run, which receives nothing, the node is killed before the receiver is there.
    for file in files(&bench.path("watch")) {
        fs::remove_file(file).unwrap();
    }
    let mut run = stream(&bench, "live", 0, &["--send-to", &to]);
    run.wait_until("second failure", |log| log.matches("cannot connect to").count() == 2);
    run.kill("spsam-metrics-writer");
    let _receiver = Storescp::start(&storescp, &[], &address, &received);
    wait_until("delivery", &run, || waiting(&bench, "live").is_empty());
    run.signal("INT");
    assert!(run.finish().success(), "{}", run.log());
    let arrived = files(&received);
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    assert_eq!(uid(&arrived[0]), uid(&segmentation));
    assert_valid(&arrived[0]);
    assert!(!run.log().to_lowercase().contains("secret"), "{}", run.log());
    // An offline run sends its segmentations, too.
    let mut command = spsam();
    command.args(["infer", "--send-to", &to]).arg("--input").arg(bench.path("study"));
    command.arg("--model").arg(bench.path("bundle")).arg("--output").arg(bench.path("offline"));
    let mut run = bench.launch(command, "offline", &[("SPSAM_LABELS", "")]);
    assert!(run.finish().success(), "{}", run.log());
    let uids: Vec<String> = files(&received).iter().map(|path| uid(path)).collect();
    assert_eq!(uids.len(), 2, "{}", run.log());
    assert!(uids.contains(&uid(&bench.path("offline/head.seg.dcm"))));
}
