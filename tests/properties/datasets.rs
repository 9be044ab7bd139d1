//! Datasets with faults: every fault is found before the first step, and named.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use self_prompt_sam::bundle::{Backbone, NetworkConfig, Normalisation, Patch, Plane};
use self_prompt_sam::compute::Compute;
use self_prompt_sam::survey::{Severity, Survey};
use self_prompt_sam::training::augment::AugmentationConfig;
use self_prompt_sam::training::{
    CaseStore, DataConfig, Divided, History, IGNORED, ModelConfig, Outcome, Schedule, Split, TrainingConfig,
    TrainingError, find_cases, run,
};
use tch::Device;

use crate::volumes::{Nifti, with_affine};

const SHAPE: [usize; 3] = [12, 10, 4];

/// A case: an image that differs from case to case, and labels with a bar of class 1 and one of class 2.
fn write_case(folder: &Path, name: &str, shape: [usize; 3]) {
    let [images, labels] = ["imagesTr", "labelsTr"].map(|name| folder.join(name));
    fs::create_dir_all(&images).unwrap();
    fs::create_dir_all(&labels).unwrap();
    fs::write(images.join(format!("{name}.nii")), image(name, shape).bytes()).unwrap();
    fs::write(labels.join(format!("{name}.nii")), label_map(shape, 2).bytes()).unwrap();
}

fn dim(shape: [usize; 3]) -> [i16; 3] {
    shape.map(|side| side as i16)
}

fn image(name: &str, shape: [usize; 3]) -> Nifti {
    let seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let count = shape.iter().product::<usize>() as u32;
    let voxels: Vec<f32> =
        (0..count).map(|at| (at.wrapping_mul(2_654_435_761) ^ seed) as f32 % 1000.0).collect();
    Nifti::f32(&dim(shape), &voxels)
}

/// Class 1 in column 2, `other` in column 5.
fn label_map(shape: [usize; 3], other: u8) -> Nifti {
    let value = |at: usize| match at % shape[0] {
        2 => 1,
        5 => other,
        _ => 0,
    };
    Nifti::u8(&dim(shape), (0..shape.iter().product()).map(value).collect())
}

fn dataset(folder: &Path, cases: usize) {
    (0..cases).for_each(|case| write_case(folder, &format!("case_{case:02}"), SHAPE));
}

/// Two steps of a tiny network.
fn config(data: &Path, output: &Path) -> TrainingConfig {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus-scratch.yml");
    let shipped = TrainingConfig::open(&shipped).unwrap();
    let plane = Plane::Window([32, 32]);
    let model = ModelConfig {
        classes: ["background", "one", "two"].map(String::from).to_vec(),
        codes: Default::default(),
        patch: Patch {
            depth: 2,
            plane,
            depth_overlap: 0.5,
            plane_overlap: 0.5,
            mirror: [false; 3],
            locate: None,
        },
        spacing_mm: None,
        normalisation: Normalisation::ZScore,
        largest_component: false.into(),
        network: NetworkConfig::full(Backbone::VitTiny, 32),
        ..shipped.model
    };
    let data = DataConfig { folder: data.into(), split: Split::EveryNth { n: 2, offset: 0 }, ..shipped.data };
    let schedule = Schedule {
        epochs: 1,
        iterations_per_epoch: 2,
        generator_only_epochs: 0,
        validate_every_epochs: 0,
        validation_cases: None,
        ..shipped.schedule
    };
    let augmentation = AugmentationConfig::none();
    TrainingConfig { model, data, schedule, augmentation, output: output.into(), ..shipped }
}

fn survey(config: &TrainingConfig) -> Survey {
    find_cases(config).unwrap().survey(config, || {})
}

/// Runs the check of the dataset before training.
fn accepted(config: &TrainingConfig) -> Result<Divided, TrainingError> {
    let cases = find_cases(config)?;
    let survey = cases.survey(config, || {});
    cases.accepted(&survey)
}

fn refusal(config: &TrainingConfig) -> String {
    let error = accepted(config).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn lines(survey: &Survey, severity: Severity) -> Vec<String> {
    let of_severity = survey.problems.iter().filter(|problem| problem.severity == severity);
    of_severity.map(|problem| problem.text.clone()).collect()
}

#[test]
fn a_good_dataset_has_a_fingerprint_and_no_problems() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), 4);
    let config = config(folder.path(), folder.path());
    let survey = survey(&config);
    assert!(survey.problems.is_empty(), "{survey}");
    let print = &survey.fingerprint;
    assert_eq!((print.cases, print.with_labels, print.orientations["RAS"]), (4, 4, 4));
    assert_eq!((print.shape[0].median, print.spacing_mm[2].max, print.anisotropy.max), (12.0, 1.0, 1.0));
    let bars = 4 * (SHAPE[1] * SHAPE[2]) as u64;
    let classes: Vec<_> =
        print.classes.iter().map(|class| (class.value, class.voxels, class.cases)).collect();
    assert_eq!(classes, [(0, 10 * bars, 4), (1, bars, 4), (2, bars, 4)]);
    assert_eq!((print.channels.len(), print.channels[0].looks_like), (1, "MR"));
    assert_eq!(accepted(&config).unwrap().training.len(), 2);
}

#[test]
fn every_fault_is_found_at_once_and_names_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 6);
    fs::remove_file(root.join("labelsTr/case_00.nii")).unwrap();
    let bytes = image("case_01", SHAPE).bytes();
    fs::write(root.join("imagesTr/case_01.nii"), &bytes[..bytes.len() - 100]).unwrap();
    label_map(SHAPE, 3).write(&root.join("labelsTr/case_02.nii"));
    let mut voxels = vec![1.0; SHAPE.iter().product()];
    voxels[3..6].fill(f32::NAN);
    Nifti::f32(&dim(SHAPE), &voxels).write(&root.join("imagesTr/case_03.nii"));
    let shifted = [[1.0, 0.0, 0.0, 3.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    fs::write(root.join("labelsTr/case_04.nii"), with_affine(label_map(SHAPE, 2).bytes(), &shifted)).unwrap();
    let config = config(root, root);
    let survey = survey(&config);
    let errors = lines(&survey, Severity::Error);
    for (file, cause) in [
        ("case_00", "no labels"),
        ("imagesTr/case_01.nii", "truncated"),
        ("labelsTr/case_02.nii", "label 3 (40 voxels) stands for no class"),
        ("imagesTr/case_03.nii", "3 voxels are NaN"),
        ("labelsTr/case_04.nii", "3.000 mm"),
    ] {
        assert!(errors.iter().any(|line| line.contains(file) && line.contains(cause)), "{cause}: {survey}");
    }
    assert_eq!(errors.len(), 5, "{survey}");
    assert!(refusal(&config).contains("5 errors in the dataset"));
    assert!(!root.join("checkpoints").exists());
}

#[test]
fn a_single_fault_is_the_one_line_that_refuses() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), 4);
    label_map(SHAPE, 3).write(&folder.path().join("labelsTr/case_01.nii"));
    let line = refusal(&config(folder.path(), folder.path()));
    assert!(line.contains("labelsTr/case_01.nii: label 3 (40 voxels)"), "{line}");
    let one = tempfile::tempdir().unwrap();
    dataset(one.path(), 1);
    let line = refusal(&config(one.path(), one.path()));
    assert!(line.contains("no training case") && line.contains("1 case"), "{line}");
}

/// The same anatomy stored from left to right and from right to left.
#[test]
fn labels_stored_the_other_way_round_are_learned_from_as_they_lie_in_the_world() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 2);
    let [x, y, z] = SHAPE;
    let mut mirrored = label_map(SHAPE, 2);
    mirrored.voxels =
        (0..x * y * z).map(|at| label_map(SHAPE, 2).voxels[at / x * x + (x - 1 - at % x)]).collect();
    let affine = [[-1.0, 0.0, 0.0, (x - 1) as f64], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    fs::write(root.join("labelsTr/case_01.nii"), with_affine(mirrored.bytes(), &affine)).unwrap();
    let config = config(root, root);
    let survey = survey(&config);
    assert_eq!(survey.errors(), 0, "{survey}");
    let notes = lines(&survey, Severity::Note);
    assert!(notes[0].contains("labelsTr/case_01.nii: stored as LAS") && notes.len() == 1, "{survey}");
    let cases = accepted(&config).unwrap();
    let open = |case| CaseStore::of_config(&config, vec![case]).get(0).unwrap();
    let [plain, reordered] = [cases.validation[0].clone(), cases.training[0].clone()].map(open);
    assert_eq!(plain.labels, reordered.labels);
}

#[test]
fn labels_under_each_others_names_are_told_by_their_grids() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 2);
    write_case(root, "case_02", [8, 9, 5]);
    let path = |case: &str| root.join(format!("labelsTr/{case}.nii"));
    fs::rename(path("case_00"), path("kept")).unwrap();
    fs::rename(path("case_02"), path("case_00")).unwrap();
    fs::rename(path("kept"), path("case_02")).unwrap();
    let survey = survey(&config(root, root));
    let exchanged: Vec<String> = lines(&survey, Severity::Error);
    let exchanged = exchanged.iter().find(|line| line.contains("exchanged")).unwrap();
    assert!(
        exchanged.contains("labelsTr/case_00.nii") && exchanged.contains("labelsTr/case_02.nii"),
        "{survey}"
    );
}

#[test]
fn what_is_only_odd_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 4);
    Nifti::f32(&dim(SHAPE), &[7.0; 480]).write(&root.join("imagesTr/case_01.nii"));
    Nifti::u8(&dim(SHAPE), vec![0; 480]).write(&root.join("labelsTr/case_02.nii"));
    fs::copy(root.join("imagesTr/case_00.nii"), root.join("imagesTr/case_03.nii")).unwrap();
    let survey = survey(&config(root, root));
    let warnings = lines(&survey, Severity::Warning);
    for (file, cause) in [
        ("imagesTr/case_01.nii", "all voxels are 7"),
        ("labelsTr/case_02.nii", "all are background"),
        ("imagesTr/case_00.nii", "the same voxels as"),
    ] {
        assert!(warnings.iter().any(|line| line.contains(file) && line.contains(cause)), "{cause}: {survey}");
    }
    assert_eq!((warnings.len(), survey.errors()), (3, 0), "{survey}");
}

#[test]
fn a_class_that_no_case_has_is_trained_without_and_has_no_dice() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 4);
    (0..4)
        .for_each(|case| drop(label_map(SHAPE, 1).write(&root.join(format!("labelsTr/case_{case:02}.nii")))));
    let config = config(root, &root.join("output"));
    assert_eq!(lines(&survey(&config), Severity::Warning), ["class 2 `two` is in no case"]);
    accepted(&config).unwrap();
    let outcome = run(&config, Compute::fp32(Device::Cpu), false, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
    let history = History::read(&config.output.join("history.json"), 2).unwrap();
    let last = &history.validations.last().unwrap().output;
    assert_eq!(last.classes[1], ("two".into(), None));
    assert_eq!(last.mean, last.classes[0].1, "the mean is of the classes that are there");
}

#[test]
fn the_pairs_of_dataset_json_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 4);
    for case in 0..4 {
        let path = |name: &str| root.join(format!("labelsTr/{name}_{case:02}.nii"));
        fs::rename(path("case"), path("truth")).unwrap();
    }
    let json = |cases: &[&str]| {
        let pair = |case: &&str| {
            format!(r#"{{"image": "./imagesTr/case_{case}.nii", "label": "./labelsTr/truth_{case}.nii"}}"#)
        };
        let pairs: Vec<String> = cases.iter().map(pair).collect();
        let text = format!(r#"{{"labels": {{"0": "background"}}, "training": [{}]}}"#, pairs.join(", "));
        fs::write(root.join("dataset.json"), text).unwrap();
    };
    json(&["00", "01", "02"]);
    let config = config(root, root);
    let survey = survey(&config);
    assert_eq!((survey.errors(), survey.cases.len()), (0, 3), "{survey}");
    let warnings = lines(&survey, Severity::Warning);
    assert!(warnings[0].contains("does not list the cases case_03"), "{survey}");
    let cases = accepted(&config).unwrap();
    assert!(
        cases.all().all(|case| case.labels.as_ref().unwrap().path().to_string_lossy().contains("truth_"))
    );
    json(&["00", "01", "02", "03", "09"]);
    let line = refusal(&config);
    assert!(line.contains("imagesTr/case_09.nii: listed in dataset.json, but not there"), "{line}");
}

#[test]
fn names_that_dataset_json_exchanges_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), 4);
    let json = folder.path().join("dataset.json");
    fs::write(&json, r#"{"labels": {"background": 0, "two": 1, "one": 2}}"#).unwrap();
    let line = refusal(&config(folder.path(), folder.path()));
    assert!(
        line.contains("dataset.json") && line.contains("1 is `two` there and `one` in the model"),
        "{line}"
    );
    fs::write(&json, r#"{"labels": {"background": 0, "One": 1, "TWO": 2}}"#).unwrap();
    accepted(&config(folder.path(), folder.path())).unwrap();
}

#[test]
fn ignored_values_are_no_error_and_count_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 2);
    // In the training case one bar is not annotated, in the validation case nothing is.
    label_map(SHAPE, 254).write(&root.join("labelsTr/case_01.nii"));
    Nifti::u8(&dim(SHAPE), vec![255; 480]).write(&root.join("labelsTr/case_00.nii"));
    let mut config = config(root, &root.join("output"));
    assert!(refusal(&config).contains("2 errors"));
    config.data.ignore = [254, 255].into_iter().collect();
    let cases = accepted(&config).unwrap();
    let case = CaseStore::of_config(&config, cases.training).get(0).unwrap();
    assert_eq!(case.labels.iter().filter(|&&label| label == IGNORED).count(), 40);
    assert_eq!(case.voxels.len(), 1, "windows are drawn around class 1 only");
    let outcome = run(&config, Compute::fp32(Device::Cpu), false, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished { best: None, .. }), "{outcome:?}");
    let history = History::read(&config.output.join("history.json"), 2).unwrap();
    let last = &history.validations.last().unwrap().output;
    assert!(last.mean.is_none() && last.classes.iter().all(|(_, dice)| dice.is_none()), "{last:?}");
    config.data.ignore = [1].into_iter().collect();
    let path = root.join("config.yml");
    config.write(&path).unwrap();
    let error = TrainingConfig::open(&path).unwrap_err().to_string();
    assert!(error.contains("data.ignore: 1 is a class, `one`"), "{error}");
}

#[test]
fn values_with_gaps_are_as_many_classes_as_there_are_values() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    dataset(root, 2);
    (0..2).for_each(|case| {
        drop(label_map(SHAPE, 250).write(&root.join(format!("labelsTr/case_{case:02}.nii"))))
    });
    let mut config = config(root, &root.join("output"));
    assert!(refusal(&config).contains("2 errors"));
    config.data.values = vec![0, 250, 1];
    let cases = accepted(&config).unwrap();
    let case = CaseStore::of_config(&config, cases.training).get(0).unwrap();
    let count = |class: u8| case.labels.iter().filter(|&&label| label == class).count();
    assert_eq!([count(0), count(1), count(2)], [400, 40, 40]);
    assert_eq!((case.labels[[0, 0, 5]], case.labels[[0, 0, 2]]), (1, 2));
    run(&config, Compute::fp32(Device::Cpu), false, &AtomicBool::new(false)).unwrap();
    config.data.values = vec![0, 250, 250];
    config.write(&root.join("config.yml")).unwrap();
    let error = TrainingConfig::open(&root.join("config.yml")).unwrap_err().to_string();
    assert!(error.contains("data.values: 250 stands for two classes"), "{error}");
}

#[test]
fn inspect_prints_all_of_it_and_fails_where_something_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), 2);
    let inspect = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spsam"));
        let output = command.arg("inspect").arg(folder.path()).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (success, out, err) = inspect(&[]);
    assert!(success && out.contains("2 cases, 2 with labels") && out.contains("0 errors"), "{out}{err}");
    let (success, out, err) = inspect(&["--classes", "background,one"]);
    assert!(!success && err.lines().count() == 1 && err.contains("2 errors"), "{err}");
    assert_eq!(
        out.lines().filter(|line| line.starts_with("error: ") && line.contains("label 2 (")).count(),
        2
    );
    let (success, out, _) = inspect(&["--json", "--classes", "background,one", "--ignore", "2"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        success && json["cases"][1]["case"] == "case_01" && json["cases"][1]["labels"]["2"] == 40,
        "{out}"
    );
    assert_eq!(json["fingerprint"]["classes"][2]["ignored"], true);
}
