//! DICOM segmentations of series written by pydicom, read by highdicom and dcmqi, and judged by dciodvfy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use ndarray::Array3;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use self_prompt_sam::bundle::{Bundle, ClassCodes};
use self_prompt_sam::dicom::seg::{ImageFile, Model, Segment, Segmentation, write};
use self_prompt_sam::dicom::{DicomError, Volume, locate};
use self_prompt_sam::report::class_colour;
use self_prompt_sam::volume::{ClassTable, Discovery, discover, write_labels};

use crate::skip::skipped;
use crate::volumes::python_program;

/// The exit code of the checking script if its program is not installed.
const NOT_INSTALLED: i32 = 77;
/// Most segments of a test.
const MOST_SEGMENTS: usize = 5;

/// Series, and in `result` a segmentation and a label map of each.
static CASES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dicom_seg");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("result")).unwrap();
    assert_eq!(script("dicom_seg.py", &["series"], &folder), (Some(0), String::new()));
    for (place, series) in subfolders(&folder.join("series")).iter().enumerate() {
        segment(series, place, &folder.join("result"));
    }
    folder
});

fn script(name: &str, arguments: &[&str], folder: &Path) -> (Option<i32>, String) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let output = Command::new(python_program()).arg(program).args(arguments).arg(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// 1 to 5 segments, of which the last but one is nowhere; every third slice is empty, and every tenth volume.
fn labels(volume: &Volume, place: usize) -> (Array3<u8>, usize) {
    let segments = 1 + place % MOST_SEGMENTS;
    let mut random = Pcg64Mcg::seed_from_u64(place as u64);
    let labels = Array3::from_shape_fn(volume.shape(), |(_, _, z)| {
        let label = random.random_range(0..=segments as u8);
        let is_missing = segments > 1 && usize::from(label) == segments - 1;
        let is_empty = z % 3 == 1 || place % 10 == 7;
        if is_missing || is_empty { 0 } else { label }
    });
    (labels, segments)
}

fn segments(count: usize) -> Vec<Segment> {
    let segment = |class: usize| {
        let name = format!("class {class} (größer)");
        Segment { codes: ClassCodes::of_name(&name), name, colour: class_colour(class).unwrap() }
    };
    (1..=count).map(segment).collect()
}

fn model() -> Model {
    Model { name: "tests".into(), id: "0123456789abcdef".into(), is_prompted: false }
}

fn volume(series: &Path) -> Volume {
    locate(series).unwrap().unwrap()
}

fn write_to(path: &Path, images: &[ImageFile], labels: &Array3<u8>, count: usize) -> Result<(), DicomError> {
    let (segments, model) = (segments(count), model());
    write(path, &Segmentation { images, labels: labels.view(), segments: &segments, model: &model })
}

fn segment(series: &Path, place: usize, to: &Path) {
    let volume = volume(series);
    let (labels, count) = labels(&volume, place);
    let path = |ending: &str| to.join(format!("{}{ending}", name(series)));
    write_to(&path(".seg.dcm"), &volume.images(), &labels, count).unwrap();
    write_labels(&path(".nii.gz"), &labels, series, &ClassTable::of_values(1..=count as u8)).unwrap();
}

/// Runs a script over all cases that compares them with what `program` reads.
fn check(name: &str, arguments: &[&str], program: &str) {
    let (code, said) = script(name, arguments, &CASES);
    match code {
        Some(NOT_INSTALLED) => skipped(&format!("{program} is not installed")),
        code => assert_eq!(code, Some(0), "{said}"),
    }
}

#[test]
fn highdicom_reads_the_labels() {
    check("dicom_seg.py", &["highdicom"], "highdicom");
}

#[test]
fn dcmqi_reads_the_labels() {
    check("dicom_seg.py", &["dcmqi"], "dcmqi");
}

#[test]
fn orthanc_gives_back_the_same_file_in_the_study_of_the_series() {
    check("orthanc.py", &[], "Orthanc");
}

#[test]
fn patient_study_references_and_frames_are_those_of_the_series() {
    check("dicom_seg.py", &["attributes"], "pydicom");
}

#[test]
fn dciodvfy_finds_no_errors() {
    let judge = |path: &Path| Command::new("dciodvfy").arg(path).output();
    for path in subfolders(&CASES.join("result")).iter().filter(|path| name(path).ends_with(".dcm")) {
        let Ok(output) = judge(path) else { return skipped("dciodvfy (dicom3tools) is not installed") };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("Segmentation"), "{}: {said}", name(path));
        assert!(!said.contains("Error"), "{}: {said}", name(path));
        assert!(output.status.success(), "{}: {said}", name(path));
    }
}

#[test]
fn the_codes_of_the_models_are_written() {
    let series = CASES.join("series/axial");
    let volume = volume(&series);
    let folder = tempfile::tempdir().unwrap();
    for name in ["hippocampus", "acdc"] {
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
        let config = Bundle::open(&bundle).unwrap().config;
        let names: Vec<&String> = config.classes.iter().skip(1).collect();
        assert!(names.iter().all(|class| config.codes.contains_key(*class)), "{name}");
        let segments: Vec<Segment> = names
            .into_iter()
            .map(|class| Segment { name: class.clone(), codes: config.codes[class].clone(), colour: [0; 3] })
            .collect();
        let path = folder.path().join("seg.dcm");
        let labels = Array3::ones(volume.shape());
        let (images, model) = (volume.images(), model());
        write(
            &path,
            &Segmentation { images: &images, labels: labels.view(), segments: &segments, model: &model },
        )
        .unwrap();
        let object = dicom_object::open_file(&path).unwrap();
        let items = object.element_by_name("SegmentSequence").unwrap().items().unwrap();
        for (item, segment) in items.iter().zip(&segments) {
            let kind =
                &item.element_by_name("SegmentedPropertyTypeCodeSequence").unwrap().items().unwrap()[0];
            let value = kind.element_by_name("CodeValue").unwrap().to_str().unwrap();
            assert_eq!(value, segment.codes.kind.value);
            let modifier = kind.element_by_name("SegmentedPropertyTypeModifierCodeSequence");
            assert_eq!(modifier.is_ok(), segment.codes.modifier.is_some());
        }
    }
}

#[test]
fn a_segmentation_beside_its_series_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let series = CASES.join("series/oblique");
    for path in subfolders(&series) {
        fs::copy(&path, folder.path().join(name(&path))).unwrap();
    }
    fs::copy(CASES.join("result/oblique.seg.dcm"), folder.path().join("a.seg.dcm")).unwrap();
    assert_eq!(discover(folder.path(), None, 1).unwrap().len(), 1);
    assert!(Discovery::find(folder.path(), None, 1).unwrap().unusable.is_empty());
}

#[test]
fn what_cannot_be_segmented_is_refused_in_one_line_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seg.dcm");
    let refused = |images: &[ImageFile], labels: &Array3<u8>, cause: &str| {
        let error = write_to(&path, images, labels, 1).unwrap_err().to_string();
        assert!(error.contains(cause) && !error.contains('\n') && !error.contains("Secret"), "{error}");
        assert!(subfolders(folder.path()).is_empty());
    };
    for (case, cause) in [("no_study", "no Study Instance UID"), ("no_instance", "no SOP Instance UID")] {
        let volume = volume(&CASES.join("refused").join(case));
        refused(&volume.images(), &Array3::zeros(volume.shape()), cause);
    }
    let volume = volume(&CASES.join("series/axial"));
    let (images, shape) = (volume.images(), volume.shape());
    refused(&images[1..], &Array3::zeros(shape), "labels of (9, 7, 5) voxels for images of (9, 7, 4)");
    refused(&images, &Array3::from_elem(shape, 2), "label 2 of 1 segments");
    refused(&[ImageFile { frame: 1, ..images[0].clone() }], &Array3::zeros(shape), "no frame 2");
    refused(&[ImageFile { path: "absent.dcm".into(), frame: 0 }], &Array3::zeros(shape), "absent.dcm");
    refused(&[], &Array3::zeros(shape), "no images");
}
