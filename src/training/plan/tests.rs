//! Tests of plans on surveys of made data sets.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::survey::{Expected, Survey};
use crate::training::TrainingConfig;

fn request() -> Request {
    Request {
        name: "made".into(),
        modalities: Vec::new(),
        weights: "/weights/lite_medsam.pth".into(),
        labels: None,
        output: "/out".into(),
        fold: [0, 5],
        on_gpu: false,
    }
}

/// A survey of ten cases with these properties.
fn survey(
    (orientation, shape, spacing_mm): (&str, [usize; 3], [f64; 3]),
    classes: &[(u8, &str)],
    channels: &[&'static str],
) -> Survey {
    let expected = Expected {
        classes: classes.iter().map(|&(value, name)| (value, name.to_owned())).collect(),
        ..Expected::default()
    };
    let mut survey = Survey::of("/data/made".into(), &[], &expected, Vec::new(), || {});
    let case = |number: usize| CaseFacts {
        case: format!("case_{number}"),
        shape,
        spacing_mm,
        orientation: orientation.into(),
        channels: Vec::new(),
        labels: Some(BTreeMap::from([(0, 10), (1, 10)])),
    };
    survey.cases = (0..10).map(case).collect();
    survey.fingerprint.channels =
        channels.iter().map(|&looks_like| crate::survey::channel(looks_like)).collect();
    survey
}

fn config(plan: &Plan, hours: f64, seconds: f64) -> TrainingConfig {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.yml");
    fs::write(&file, plan.configuration(hours, seconds)).unwrap();
    TrainingConfig::open(&file).unwrap_or_else(|error| panic!("{error}\n{}", plan.configuration(1.0, 1.0)))
}

#[test]
fn a_small_isotropic_mr_is_planned_as_it_is() {
    let classes = [(0, "background"), (1, "anterior"), (2, "posterior")];
    let survey = survey(("RAS", [35, 50, 35], [1.0; 3]), &classes, &["MR"]);
    let plan = Plan::of(&survey, &request()).unwrap();
    let config = config(&plan, 2.0, 1.5);
    assert_eq!(config.model.classes, ["background", "anterior", "posterior"]);
    assert_eq!((config.model.slice_axis, config.model.spacing_mm), (SliceAxis::Axial, Some([1.0; 3])));
    assert_eq!(config.patch(), [8, 64, 64]);
    assert_eq!(config.model.normalisation, Normalisation::ZScore);
    assert_eq!(config.model.patch.mirror, [false, false, true]);
    let seconds = config.schedule.steps() as f64 * 1.5;
    assert!((0.8..0.9).contains(&(seconds / 7200.0)), "{seconds}");
    assert!(config.prompts.is_some() && config.optimiser.average.is_some());
    assert_eq!(config.data.split, crate::training::Split::Folds { count: 5, index: 0, seed: 0 });
}

#[test]
fn thick_slices_give_the_axis_and_sides_are_not_mirrored() {
    // Stored as LSA: coronal slices of 6 mm lie along the last axis.
    let shape = ("LSA", [256, 200, 20], [1.0, 1.0, 6.0]);
    let survey = survey(shape, &[(0, "background"), (7, "kidney_left"), (250, "kidney_right")], &["MR"]);
    let config = config(&Plan::of(&survey, &request()).unwrap(), 1.0, 1.0);
    assert_eq!(config.model.slice_axis, SliceAxis::Coronal);
    assert_eq!(config.model.spacing_mm, Some([6.0, 1.0, 1.0]));
    assert_eq!(config.patch(), [8, 128, 128]);
    assert_eq!(config.data.values, [0, 7, 250]);
    assert_eq!(config.augmentation.mirror, [false; 3]);
}

#[test]
fn a_large_ct_is_coarsened_and_clipped_and_a_gpu_needs_less_of_it() {
    let shape = ("LPS", [512, 512, 90], [0.8, 0.8, 5.0]);
    let survey = survey(shape, &[(0, "background"), (1, "liver")], &["CT"]);
    let on_cpu = config(&Plan::of(&survey, &request()).unwrap(), 1.0, 1.0);
    assert_eq!(on_cpu.model.spacing_mm, Some([5.0, 1.28, 1.28]));
    assert!(
        matches!(on_cpu.model.normalisation, Normalisation::Clip { low, high, .. } if low == -100.0 && high == 200.0)
    );
    assert_eq!(on_cpu.model.modalities, ["CT"]);
    let on_gpu = config(&Plan::of(&survey, &Request { on_gpu: true, ..request() }).unwrap(), 1.0, 1.0);
    assert_eq!((on_gpu.patch(), on_gpu.model.spacing_mm), ([8, 256, 256], Some([5.0, 0.8, 0.8])));
}

#[test]
fn two_modalities_keep_their_names_and_are_normalised_by_volume() {
    let shape = ("RAS", [100, 120, 6], [1.0, 1.0, 4.0]);
    let survey = survey(shape, &[(0, "background"), (1, "lesion")], &["MR", "CT"]);
    let named = Request { modalities: vec!["T1".into(), "CT".into()], ..request() };
    let config = config(&Plan::of(&survey, &named).unwrap(), 1.0, 1.0);
    assert_eq!(
        (config.model.modalities, config.model.normalisation),
        (named.modalities, Normalisation::ZScore)
    );
    assert_eq!(config.model.patch.depth, 6);
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let shape = ("RAS", [10, 10, 10], [1.0; 3]);
    let of = |survey: &Survey, request: &Request| Plan::of(survey, request).unwrap_err();
    let mut few = survey(shape, &[(0, "background"), (1, "a")], &["MR"]);
    assert!(of(&few, &Request { fold: [5, 5], ..request() }).contains("fold 5 of 5"));
    few.cases.truncate(1);
    assert!(of(&few, &request()).contains("/data/made: 1 cases with labels"));
    let no_class = survey(shape, &[(0, "background")], &["MR"]);
    assert!(of(&no_class, &request()).contains("no class besides the background"));
}
