//! Training on small synthetic cases: the stream of windows, a run that learns, faults, and resuming after a stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::Array3;
use self_prompt_sam::bundle::{Backbone, Bundle, NetworkConfig, Normalisation, Patch, Plane, WeightFile};
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::{Segmenter, write_fresh_weights};
use self_prompt_sam::training::augment::AugmentationConfig;
use self_prompt_sam::training::{
    CaseStore, Checkpoints, DataConfig, LearningRate, Manifest, ModelConfig, Outcome, Prefetch,
    PrefetchConfig, Sample, Sampler, Schedule, Split, Stage, Trainer, TrainingConfig, TrainingError, divide,
    run, slices_of,
};
use self_prompt_sam::volume::IgnoreValues;
use self_prompt_sam::weights::{Tensors, sha256_file};
use tch::{Device, Kind, Tensor};

use crate::volumes::Nifti;

const SIDE: usize = 32;
const DEPTH: usize = 2;

/// A dataset of bright balls of two classes on noise, in the layout of the Decathlon.
fn dataset(folder: &Path, cases: usize) {
    let [images, labels] = ["imagesTr", "labelsTr"].map(|name| folder.join(name));
    fs::create_dir_all(&images).unwrap();
    fs::create_dir_all(&labels).unwrap();
    for case in 0..cases {
        let shape = [36, 34, 5];
        let truth = Array3::from_shape_fn(shape, |(x, y, z)| {
            let near = |cx: usize, cy: usize| x.abs_diff(cx + case) + y.abs_diff(cy) + z.abs_diff(2) < 7;
            u8::from(near(10, 12)) + 2 * u8::from(near(23, 20))
        });
        tch::manual_seed(case as i64);
        let noise = Tensor::randn([truth.len() as i64], (Kind::Float, Device::Cpu));
        let noise = Vec::<f32>::try_from(noise).unwrap();
        let voxels = |of: &dyn Fn(usize, u8) -> f32| -> Vec<f32> {
            let in_file = truth.t(); // [z, y, x]: x fastest
            in_file.iter().enumerate().map(|(index, &label)| of(index, label)).collect()
        };
        let dim = shape.map(|side| side as i16);
        let image = voxels(&|index, label| 2.0 * f32::from(label) + 0.3 * noise[index]);
        Nifti::f32(&dim, &image).write(&images.join(format!("case_{case:03}.nii")));
        let truth = voxels(&|_, label| f32::from(label)).iter().map(|&label| label as u8).collect();
        Nifti::u8(&dim, truth).write(&labels.join(format!("case_{case:03}.nii")));
    }
}

pub fn config(folder: &Path, cases: usize) -> TrainingConfig {
    dataset(&folder.join("data"), cases);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus-scratch.yml");
    let shipped = TrainingConfig::open(&shipped).unwrap();
    let plane = Plane::Window([SIDE, SIDE]);
    let model = ModelConfig {
        patch: Patch {
            depth: DEPTH,
            plane,
            depth_overlap: 0.5,
            plane_overlap: 0.5,
            mirror: [false; 3],
            locate: None,
        },
        spacing_mm: None,
        normalisation: Normalisation::ZScore,
        largest_component: false.into(),
        network: NetworkConfig::full(Backbone::VitTiny, SIDE as i64),
        ..shipped.model
    };
    let data = DataConfig {
        folder: folder.join("data"),
        labels: None,
        split: Split::EveryNth { n: 2, offset: 0 },
        patient: None,
        values: vec![],
        ignore: IgnoreValues::default(),
        foreground: 0.5,
        resample_labels: false,
        memory_mib: 64,
    };
    let schedule = Schedule {
        epochs: 4,
        iterations_per_epoch: 3,
        generator_only_epochs: 2,
        windows_per_step: 2,
        validate_every_epochs: 2,
        validation_cases: None,
        checkpoint_every_epochs: 1,
        log_every_steps: 2,
    };
    let augmentation = AugmentationConfig::none();
    let learning_rate = LearningRate::WarmUpCosine { peak: 2e-3, warm_up_steps: 4, last: 1e-4 };
    let output = folder.join("output");
    TrainingConfig { model, data, schedule, augmentation, learning_rate, output, ..shipped }
}

pub fn sampler(config: &TrainingConfig, augmentation: AugmentationConfig, memory: usize) -> Arc<Sampler> {
    let cases = divide(config).unwrap().training;
    let store = CaseStore::new(cases, config.model.without_files(), memory);
    Arc::new(Sampler::new(store, config.patch(), config.data.foreground, augmentation, config.seed))
}

fn take(sampler: &Arc<Sampler>, first: u64, threads: usize, count: usize) -> Vec<Sample> {
    let mut prefetch = Prefetch::new(sampler, first, PrefetchConfig { threads, queue: 2 }).unwrap();
    (0..count).map(|_| prefetch.next_sample().unwrap()).collect()
}

fn weights(trainer: &Trainer) -> Tensors {
    trainer.parts().iter().flat_map(|part| part.shard()).collect()
}

pub fn fp32() -> Compute {
    Compute::fp32(Device::Cpu)
}

#[test]
fn the_stream_is_the_same_whatever_the_threads_and_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 6);
    let windows = take(&sampler(&config, AugmentationConfig::default(), 1 << 30), 0, 1, 30);
    for threads in [2, 3, 5] {
        let without_memory = sampler(&config, AugmentationConfig::default(), 0);
        assert!(take(&without_memory, 0, threads, 30) == windows, "{threads} threads");
    }
    let later = take(&sampler(&config, AugmentationConfig::default(), 1 << 30), 7, 2, 5);
    assert!(later == windows[7..12], "the stream can be entered anywhere");
    let other = TrainingConfig { seed: 1, ..config };
    assert!(take(&sampler(&other, AugmentationConfig::default(), 1 << 30), 0, 1, 30) != windows);
}

#[test]
fn every_case_has_its_turn_and_windows_hold_classes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 8);
    config.data.foreground = 1.0;
    let windows = take(&sampler(&config, AugmentationConfig::none(), 1 << 30), 0, 1, 40);
    for pass in windows.chunks(4) {
        let mut cases: Vec<&str> = pass.iter().map(|window| window.case_id.as_str()).collect();
        cases.sort_unstable();
        assert_eq!(cases, ["case_001", "case_003", "case_005", "case_007"]);
    }
    for window in &windows {
        assert_eq!(window.labels.dim(), (DEPTH, SIDE, SIDE));
        assert!(window.labels.iter().any(|&label| label > 0) && window.labels.iter().all(|&label| label < 3));
    }
}

#[test]
fn labels_that_are_no_class_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 4);
    config.model.classes.pop();
    let error = sampler(&config, AugmentationConfig::none(), 0).sample(0).unwrap_err().to_string();
    assert!(error.contains("labelsTr/case_00") && error.contains("label 2"), "{error}");
}

/// Takes some seconds: the network memorises two cases.
#[test]
fn a_run_learns_and_its_bundle_segments_as_the_trainer_did() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 5);
    config.data.split = Split::Lists {
        training: vec!["case_000".into(), "case_002".into()],
        validation: vec!["case_001".into(), "case_003".into(), "case_004".into()],
    };
    config.schedule.validation_cases = Some(1);
    config.schedule =
        Schedule { epochs: 6, iterations_per_epoch: 12, generator_only_epochs: 3, ..config.schedule };
    let outcome = run(&config, fp32(), false, &AtomicBool::new(false)).unwrap();
    let Outcome::Finished { bundle, best: Some(best) } = outcome else { panic!("{outcome:?}") };
    println!("validation Dice {:.4}", best.dice);
    assert!(best.dice > 0.8, "{best:?}");
    for file in ["training.html", "history.json", "config.yml", "bundle/model.yml"] {
        assert!(config.output.join(file).is_file(), "{file}");
    }
    let kept = Checkpoints::new(config.output.join("checkpoints"));
    let (manifest, shards) = kept.read(best.step).unwrap();
    let mut trainer = Trainer::new(&config, fp32()).unwrap();
    trainer.restore(manifest.step, &shards).unwrap();
    let window = sampler(&config, AugmentationConfig::none(), 0).sample(0).unwrap();
    let expected = trainer.segment(&window.images, Stage::Full).unwrap().output.unwrap();
    let segmenter = Segmenter::load(&Bundle::open(&bundle).unwrap(), fp32()).unwrap();
    let found = segmenter.segment(&slices_of(&window.images), None, None).unwrap();
    let differing =
        found.argmax(1, false).ne_tensor(&expected.argmax(1, false)).sum(Kind::Float).double_value(&[]);
    assert!(differing < 20.0, "{differing} pixels differ by rounding to fp16");

    let continued = TrainingConfig { start_from: Some(bundle.clone()), seed: 9, ..config };
    let started = Trainer::new(&continued, fp32()).unwrap();
    let (started, learned) = (weights(&started), weights(&trainer));
    let learned: Vec<_> = learned.iter().filter(|(name, _)| !name.starts_with("optimiser/")).collect();
    assert!(learned.len() > 100);
    for (name, value) in learned {
        let difference = (&started[name] - value).abs().max().double_value(&[]);
        let rounding = 1e-3 * value.abs().max().double_value(&[]).max(1e-4);
        assert!(difference <= rounding, "{name} differs by {difference}, more than fp16 rounds");
    }
    let mut other = continued;
    other.model.patch.depth += 1;
    let error = Trainer::new(&other, fp32()).err().unwrap().to_string();
    assert!(error.contains(&bundle.display().to_string()), "{error}");
}

#[test]
fn a_stopped_and_resumed_run_ends_as_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), 4);
    assert!(matches!(run(&whole, fp32(), false, &AtomicBool::new(false)), Ok(Outcome::Finished { .. })));
    let parts = TrainingConfig { output: folder.path().join("parts"), ..whole.clone() };
    // A flag that is set before the first step stops the run after each step, so the run has as many pieces as
    // steps. Set during the last validation, the flag leaves the rest to another piece.
    let mut pieces = 0;
    while let Outcome::Stopped { step } =
        run(&parts, fp32(), pieces > 0, &AtomicBool::new(pieces < 12)).unwrap()
    {
        assert_eq!(step, pieces + 1);
        pieces += 1;
        assert!(!parts.output.join("bundle").exists());
    }
    assert_eq!(pieces, 12);
    let read = |config: &TrainingConfig| {
        Checkpoints::new(config.output.join("checkpoints")).newest().unwrap().unwrap()
    };
    let ((expected, expected_shards), (found, shards)) = (read(&whole), read(&parts));
    assert_eq!((expected.step, found.step), (12, 12));
    for (part, expected) in &expected_shards {
        for (name, expected) in expected {
            let found = &shards[part][name];
            // Threads sum in any order, so results are not identical bit for bit.
            assert!(found.allclose(expected, 1e-3, 1e-5, false), "{part} {name}");
        }
    }
}

#[test]
fn a_new_run_does_not_begin_over_an_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 4);
    run(&config, fp32(), false, &AtomicBool::new(true)).unwrap();
    let error = run(&config, fp32(), false, &AtomicBool::new(true)).unwrap_err().to_string();
    assert!(error.contains("resume"), "{error}");
}

#[test]
fn a_run_goes_on_only_as_it_was_begun() {
    let folder = tempfile::tempdir().unwrap();
    let begun = config(folder.path(), 4);
    let go_on = |config: &TrainingConfig| run(config, fp32(), true, &AtomicBool::new(true));
    run(&begun, fp32(), false, &AtomicBool::new(true)).unwrap();
    let other = TrainingConfig { seed: 5, ..begun.clone() };
    let error = go_on(&other).unwrap_err().to_string();
    assert!(error.contains("seed was 0 and is 5") && error.contains("output"), "{error}");
    let mut other = begun.clone();
    other.data.split = Split::EveryNth { n: 2, offset: 1 };
    let error = go_on(&other).unwrap_err().to_string();
    assert!(error.contains("data.split.every_nth.offset was 0 and is 1"), "{error}");
    assert!(error.contains("case case_000 was for validation and is for training"), "{error}");
    let mut longer = begun.clone();
    longer.schedule.epochs += 1;
    longer.data.memory_mib += 1;
    assert_eq!(go_on(&longer).unwrap(), Outcome::Stopped { step: 2 });
    let error = go_on(&TrainingConfig { seed: 5, ..longer }).unwrap_err().to_string();
    assert!(error.contains("seed") && !error.contains("epochs"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 4);
    let checkpoints = config.output.join("checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    fs::write(checkpoints.join("step-00000006"), "in the way of the folder").unwrap();
    let outcome = run(&config, fp32(), true, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
    assert_eq!(Checkpoints::new(&checkpoints).newest().unwrap().unwrap().0.step, 12);
}

#[test]
fn a_loss_that_is_not_a_number_stops_before_anything_changes() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 4);
    let mut trainer = Trainer::new(&config, fp32()).unwrap();
    let mut window = sampler(&config, AugmentationConfig::none(), 0).sample(0).unwrap();
    trainer.step(std::slice::from_ref(&window)).unwrap();
    let before: Vec<(String, Tensor)> =
        weights(&trainer).into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
    window.images[[0, 0, 3, 3]] = f32::NAN;
    let error = trainer.step(&[window]).unwrap_err();
    assert!(matches!(error, TrainingError::NotFinite { step: 1, .. }), "{error}");
    let after = weights(&trainer);
    assert!(before.iter().all(|(name, tensor)| tensor.equal(&after[name])));
}

#[test]
fn shards_of_another_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 4);
    let checkpoints = Checkpoints::new(folder.path().join("checkpoints"));
    let trainer = Trainer::new(&config, fp32()).unwrap();
    let shards = trainer.write_shards(&checkpoints).unwrap();
    checkpoints.complete(&Manifest { step: 0, seconds: 0.0, best: None, shards }).unwrap();
    let (manifest, shards) = checkpoints.newest().unwrap().unwrap();
    let mut other = config.clone();
    other.model.classes.push("more".into());
    let error =
        Trainer::new(&other, fp32()).unwrap().restore(manifest.step, &shards).unwrap_err().to_string();
    assert!(error.contains("generator") && error.contains("head"), "{error}");
}

/// The configuration with all weights from a bundle, which is made in `folder`: fresh weights come from libtorch's
/// generator, and the tests of a process share that.
pub fn with_fixed_weights(mut config: TrainingConfig, folder: &Path) -> TrainingConfig {
    let file = |name: &str| folder.join(name);
    let [backbone, adapters] = ["backbone.safetensors", "adapters.safetensors"].map(file);
    let mut bundle = config.model.without_files();
    write_fresh_weights(&bundle, 3, &adapters, Some(&backbone)).unwrap();
    let weights = |file: PathBuf| WeightFile { sha256: sha256_file(&file).unwrap(), file };
    bundle.weights = weights(backbone);
    bundle.adapters = Some(weights(adapters));
    fs::write(file("model.yml"), serde_yaml::to_string(&bundle).unwrap()).unwrap();
    config.model.weights = Some(bundle.weights);
    config.model.train_backbone = false;
    config.start_from = Some(folder.to_path_buf());
    config
}

#[test]
fn windows_of_a_step_are_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_fixed_weights(config(folder.path(), 4), folder.path());
    let sampler = sampler(&config, AugmentationConfig::none(), 0);
    let windows: Vec<Sample> = (0..3).map(|index| sampler.sample(index).unwrap()).collect();
    let report = |windows: &[Sample]| Trainer::new(&config, fp32()).unwrap().step(windows).unwrap();
    let alone: f64 = windows.iter().map(|w| report(std::slice::from_ref(w)).auxiliary_loss).sum();
    let together = report(&windows);
    assert!((together.auxiliary_loss - alone / 3.0).abs() < 1e-5);
    let twice = report(&[windows[0].clone(), windows[0].clone()]);
    let once = report(&windows[..1]);
    for (twice, once) in twice.gradient_norms.iter().zip(once.gradient_norms) {
        assert!((twice - once).abs() <= 1e-4 * once, "{twice} {once}");
    }
}

#[test]
fn only_what_the_stage_trains_changes_and_frozen_weights_never() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 4);
    config.schedule.generator_only_epochs = 1;
    let sampler = sampler(&config, AugmentationConfig::none(), 0);
    let mut trainer = Trainer::new(&config, fp32()).unwrap();
    let decoder = |trainer: &Trainer| -> Tensors {
        let shard = trainer.decoder.part.shard();
        shard.into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
    };
    let start = decoder(&trainer);
    for index in 0..3 {
        let report = trainer.step(&[sampler.sample(index).unwrap()]).unwrap();
        assert!(report.final_loss.is_none());
    }
    let same = |a: &Tensors, b: &Tensors| a.iter().all(|(name, tensor)| tensor.equal(&b[name]));
    assert!(same(&start, &decoder(&trainer)));
    assert!(trainer.step(&[sampler.sample(3).unwrap()]).unwrap().final_loss.is_some());
    assert!(!same(&start, &decoder(&trainer)));

    let config = with_fixed_weights(config, folder.path());
    let mut trainer = Trainer::new(&config, fp32()).unwrap();
    for index in 0..5 {
        trainer.step(&[sampler.sample(index).unwrap()]).unwrap();
    }
    trainer.check_frozen().unwrap();
    assert!(
        trainer.parts().iter().all(|part| part.parameters().keys().all(|name| name.starts_with("trained/")))
    );
}

#[test]
fn a_stop_during_validation_is_obeyed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 4);
    let validation = divide(&config).unwrap().validation;
    let validator = self_prompt_sam::training::Validator::new(validation, config.model.without_files());
    let trainer = Trainer::new(&config, fp32()).unwrap();
    let stop = AtomicBool::new(false);
    assert!(validator.validate(&trainer, Stage::Full, None, &stop).unwrap().is_some());
    stop.store(true, Ordering::Relaxed);
    assert!(validator.validate(&trainer, Stage::Full, None, &stop).unwrap().is_none());
}
