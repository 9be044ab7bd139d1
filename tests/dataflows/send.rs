//! `spsam send` as the scanner of live segmentation, and against receivers of other authors.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use ndarray::{Array3, Axis};
use self_prompt_sam::volume::read_labels;

use super::harness::{Bench, Run, project, python};
use super::scanner::dcmtk;
use super::skip::skipped;

const SLICES: usize = 6;

pub fn spsam() -> Command {
    let mut command = Command::new(project().join("target/release/spsam"));
    command.stdin(Stdio::null());
    command
}

fn send(to: &str, arguments: &[&str]) -> Output {
    spsam().arg("send").args(arguments).args(["--to", to, "--wait", "120"]).output().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn stream(bench: &Bench, output: &str, address: &str, series: usize) -> Run {
    let mut command = spsam();
    command.args(["stream", "--listen", address, "--series", &series.to_string(), "--idle", "2"]);
    command.arg("--model").arg(bench.path("bundle")).arg("--output").arg(bench.path(output));
    bench.launch(command, output, &[])
}

/// Label maps of `spsam infer` for the volumes of the bench, with rows from the last to the first, as series have them.
pub fn offline(bench: &Bench) -> Vec<Array3<u8>> {
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let mut run = bench.start(&flow, "offline", &[("SPSAM_LABELS", "")]);
    assert!(run.finish().success(), "{}", run.log());
    labels(&bench.path("offline"))
        .into_iter()
        .map(|mut labels| {
            labels.invert_axis(Axis(1));
            labels
        })
        .collect()
}

pub fn labels(folder: &Path) -> Vec<Array3<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().ends_with(".nii.gz")).collect();
    paths.sort();
    paths.iter().map(|path| read_labels(path).unwrap().0).collect()
}

fn assert_refused(output: &Output, causes: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(causes.iter().all(|cause| errors[0].contains(cause)), "{stderr}");
}

/// An MR image that does not say where it lies.
fn image_without_a_place(path: &Path) {
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let object = InMemDicomObject::from_element_iter([
        text(tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4"),
        text(tags::MODALITY, VR::CS, "MR"),
        text(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3"),
        number(tags::SAMPLES_PER_PIXEL, 1),
        number(tags::ROWS, 1),
        number(tags::COLUMNS, 1),
        number(tags::BITS_ALLOCATED, 16),
        number(tags::BITS_STORED, 16),
        number(tags::HIGH_BIT, 15),
        number(tags::PIXEL_REPRESENTATION, 0),
        DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::from(7u16)),
    ]);
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}

#[test]
fn a_volume_that_is_sent_has_the_labels_of_an_offline_run() {
    let bench = Bench::new(1, SLICES);
    let address = free_address();
    let mut run = stream(&bench, "live", &address, 1);
    let image = bench.path("images/case_0.nii.gz");
    let image = image.to_str().unwrap();
    // What is refused first disturbs nothing.
    let output = send(&address, &[image, "--aec", "OTHER"]);
    assert_refused(&output, &["rejects the association", "called AE title not recognized"]);
    let lost = bench.path("lost.dcm");
    image_without_a_place(&lost);
    let output = send(&address, &[lost.to_str().unwrap()]);
    assert_refused(&output, &["lost.dcm", "(C000)", "Image Position"]);
    let output = send(&address, &[image, "--rate", "20"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(&format!("sent {SLICES} images of 1 series")), "{}", said(&output));
    assert!(run.finish().success(), "{}", run.log());
    let expected = offline(&bench);
    assert!(expected[0].iter().any(|&label| label != 0), "nothing to compare");
    assert!(labels(&bench.path("live")) == expected, "the labels are not those of an offline run");
    assert_eq!(run.summary()["live"]["complete"]["images"], SLICES);
}

#[test]
fn order_and_a_broken_connection_change_nothing() {
    let bench = Bench::new(2, SLICES);
    let address = free_address();
    let mut run = stream(&bench, "live", &address, 2);
    let images = [0, 1].map(|case| bench.path(&format!("images/case_{case}.nii.gz")));
    let [one, two] = images.each_ref().map(|path| path.to_str().unwrap());
    let how = ["--rate", "0", "--shuffle", "3", "--interleave", "--break-off", "5"];
    let output = send(&address, &[&[one, two][..], &how].concat());
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(&format!("sent {} images of 2 series", 2 * SLICES)), "{}", said(&output));
    assert!(run.finish().success(), "{}", run.log());
    let (mut found, mut expected) = (labels(&bench.path("live")), offline(&bench));
    let order = |labels: &Array3<u8>| labels.iter().copied().collect::<Vec<u8>>();
    found.sort_by_key(order);
    expected.sort_by_key(order);
    assert!(found == expected, "the labels are not those of an offline run");
}

#[test]
fn what_cannot_be_sent_is_one_line() {
    let bench = Bench::new(1, 2);
    let address = free_address();
    let image = bench.path("images/case_0.nii.gz");
    let run = |path: &Path, more: &[&str]| {
        spsam().arg("send").arg(path).args(["--to", &address]).args(more).output().unwrap()
    };
    assert_refused(&run(&image, &[]), &["cannot connect to", &address, "refused"]);
    let output = spsam().arg("send").arg(&image).args(["--to", "no-such-host.invalid:104"]).output().unwrap();
    assert_refused(&output, &["cannot connect to no-such-host.invalid:104"]);
    assert_refused(&run(&bench.path("nothing.nii.gz"), &[]), &["nothing.nii.gz"]);
    assert_refused(&run(&bench.path("bundle"), &[]), &["bundle", "no DICOM files"]);
    let text = bench.path("text.dcm");
    fs::write(&text, "no image").unwrap();
    assert_refused(&run(&text, &[]), &["text.dcm", "no DICM prefix"]);
    let cut = bench.path("cut.nii.gz");
    let bytes = fs::read(&image).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert_refused(&run(&cut, &[]), &["cut.nii.gz"]);
    assert_refused(&run(&image, &["--break-off", "9"]), &["only 2 images"]);
}

/// DCMTK's receiver, until it is dropped.
pub struct Storescp(Child);

impl Storescp {
    /// Receives into a folder, which is made.
    pub fn start(program: &str, arguments: &[&str], address: &str, folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let (_, port) = address.rsplit_once(':').unwrap();
        let mut command = Command::new(program);
        command.args(arguments).arg("-od").arg(folder).arg(port);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Storescp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dcmtk_receives_volumes_and_files() {
    let Some(storescp) = dcmtk("storescp") else {
        return skipped("needs the Debian package dcmtk");
    };
    let bench = Bench::new(1, SLICES);
    let image = bench.path("images/case_0.nii.gz");
    // With short PDUs, and then only the default transfer syntax.
    for (name, arguments) in [("short", ["-pdu", "4096"]), ("implicit", ["+xi", "-q"])] {
        let (address, received) = (free_address(), bench.path(name));
        let _receiver = Storescp::start(&storescp, &arguments, &address, &received);
        let output = send(&address, &[image.to_str().unwrap(), "--rate", "0", "--repeat", "2"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(fs::read_dir(&received).unwrap().count(), 2 * SLICES);
        // What was received is sent again as files: the same instances.
        let output = send(&address, &[received.to_str().unwrap(), "--rate", "0"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("of 2 series"), "{}", said(&output));
        assert_eq!(fs::read_dir(&received).unwrap().count(), 2 * SLICES);
    }
}

#[test]
fn orthanc_receives_volumes() {
    const NOT_INSTALLED: i32 = 77;
    let bench = Bench::new(1, SLICES);
    let output = Command::new(python())
        .arg(project().join("tests/python/orthanc_receives.py"))
        .arg(project().join("target/release/spsam"))
        .arg(bench.path("images/case_0.nii.gz"))
        .output()
        .unwrap();
    match output.status.code() {
        Some(NOT_INSTALLED) => skipped("needs the Debian package orthanc"),
        code => assert_eq!(code, Some(0), "{}", said(&output)),
    }
}
