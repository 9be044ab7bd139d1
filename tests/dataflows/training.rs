//! Training across the dataflow: it equals training in one process, and nothing is lost when a node dies.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use self_prompt_sam::bundle::{Backbone, NetworkConfig, Normalisation, Patch, Plane};
use self_prompt_sam::compute::{Compute, Precision};
use self_prompt_sam::training::augment::AugmentationConfig;
use self_prompt_sam::training::{
    DataConfig, History, LearningRate, ModelConfig, OptimiserConfig, Outcome, PromptSampling, Rule, Schedule,
    Split, TrainingConfig, run,
};
use self_prompt_sam::weights::Tensors;
use tch::Device;

use super::harness::{Bench, Run, project};

const SIDE: usize = 32;

/// A small network, trained from scratch on the bench's volumes for `epochs` of 5 steps, the first `generator_only`
/// of them without the decoder.
fn config(bench: &Bench, windows: usize, epochs: u64, generator_only: u64) -> TrainingConfig {
    let shipped = TrainingConfig::open(&project().join("configs/hippocampus-scratch.yml")).unwrap();
    let model = ModelConfig {
        patch: Patch {
            depth: 4,
            plane: Plane::Window([SIDE; 2]),
            depth_overlap: 0.5,
            plane_overlap: 0.5,
            mirror: [false; 3],
            locate: None,
        },
        normalisation: Normalisation::ZScore,
        largest_component: false.into(),
        spacing_mm: None,
        network: NetworkConfig::full(Backbone::VitTiny, SIDE as i64),
        ..shipped.model
    };
    let data = DataConfig {
        folder: bench.path("images"),
        labels: Some(bench.path("labels")),
        split: Split::EveryNth { n: 3, offset: 0 },
        ..shipped.data
    };
    let schedule = Schedule {
        epochs,
        iterations_per_epoch: 5,
        generator_only_epochs: generator_only,
        windows_per_step: windows,
        validate_every_epochs: 0,
        log_every_steps: 1,
        ..shipped.schedule
    };
    let rule = Rule::Sgd { momentum: 0.9, nesterov: true, weight_decay: 3e-5 };
    TrainingConfig {
        model,
        data,
        schedule,
        optimiser: OptimiserConfig { rule, clip_norm: Some(12.0), average: Some(0.9) },
        learning_rate: LearningRate::Poly { initial: 0.01, exponent: 0.9 },
        augmentation: AugmentationConfig::default(),
        prompts: Some(PromptSampling::default()),
        precision: Precision::Fp32,
        ..shipped
    }
}

/// Starts `train.yml` for `config`, with its results in the folder `name` of the bench.
fn start(bench: &Bench, name: &str, config: &TrainingConfig, resume: bool) -> Run {
    let config = TrainingConfig { output: bench.path(name), ..config.clone() };
    fs::create_dir_all(&config.output).unwrap();
    let file = config.output.join("config.yml");
    config.write(&file).unwrap();
    let dataflow = bench.dataflow("dataflows/train.yml", |text| text);
    let settings =
        [("SPSAM_TRAINING", file.to_str().unwrap()), ("SPSAM_RESUME", if resume { "1" } else { "0" })];
    bench.start(&dataflow, name, &settings)
}

fn train(bench: &Bench, name: &str, config: &TrainingConfig, resume: bool) -> String {
    let mut run = start(bench, name, config, resume);
    let status = run.finish();
    assert!(status.success(), "{status}; log:\n{}", run.log());
    run.log()
}

fn train_in_process(bench: &Bench, name: &str, config: &TrainingConfig) {
    let config = TrainingConfig { output: bench.path(name), ..config.clone() };
    let outcome =
        run(&config, Compute::new(Device::Cpu, config.precision), false, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
}

/// Losses of a step, of the generator and of the decoder.
type Losses = (f64, Option<f64>);

/// The newest checkpoint of a run, and the losses of each step.
fn result(folder: &Path) -> (u64, BTreeMap<String, Tensors>, Vec<Losses>) {
    let checkpoints = self_prompt_sam::training::Checkpoints::new(folder.join("checkpoints"));
    let (manifest, shards) = checkpoints.newest().unwrap().unwrap();
    let history = History::read(&folder.join("history.json"), manifest.step).unwrap();
    let losses = history.points.iter().map(|point| (point.auxiliary_loss, point.final_loss)).collect();
    (manifest.step, shards, losses)
}

/// The same training in steps so small that a rounding stays one. At the usual rate this network multiplies a relative
/// change of 1e-7 by a million within forty steps, and libtorch does not round alike in every process. In these steps
/// such a change moves losses by 2e-7 and gradients by 0.06. Prompts are the model's own, because one pixel of a mask that
/// changes moves a random point anywhere.
fn calm(config: TrainingConfig) -> TrainingConfig {
    let learning_rate = LearningRate::Poly { initial: 1e-5, exponent: 0.9 };
    TrainingConfig { learning_rate, prompts: None, ..config }
}

/// A tensor that is smaller than this is zero but for rounding: the gradient of a bias in front of a normalisation.
const ZERO: f64 = 1e-6;

/// Largest difference between two runs: of the losses, and of each tensor relative to its largest value.
fn difference(bench: &Bench, [one, other]: [&str; 2]) -> (f64, f64) {
    let [(step, shards, losses), (other_step, other_shards, other_losses)] =
        [one, other].map(|name| result(&bench.path(name)));
    assert_eq!((step, losses.len()), (other_step, other_losses.len()));
    assert!(!losses.is_empty());
    let relative = |a: f64, b: f64| (a - b).abs() / b.abs().max(f64::MIN_POSITIVE);
    assert!(losses.iter().chain(&other_losses).all(|(loss, _)| loss.is_finite()));
    let mut of_losses: f64 = 0.0;
    for ((auxiliary, output), (other_auxiliary, other_output)) in losses.iter().zip(&other_losses) {
        assert_eq!(output.is_some(), other_output.is_some());
        of_losses = of_losses.max(relative(*auxiliary, *other_auxiliary));
        if let (Some(output), Some(other)) = (output, other_output) {
            of_losses = of_losses.max(relative(*output, *other));
        }
    }
    let mut of_tensors: f64 = 0.0;
    assert!(shards.keys().eq(other_shards.keys()) && shards.len() == 3);
    for (part, tensors) in &shards {
        assert!(tensors.keys().eq(other_shards[part].keys()), "{part}");
        for (name, tensor) in tensors {
            let other = &other_shards[part][name];
            let largest = other.abs().max().double_value(&[]);
            let difference = (tensor - other).abs().max().double_value(&[]);
            assert!(difference.is_finite(), "{part}: {name}");
            if difference > 0.0 {
                of_tensors = of_tensors.max(difference / largest.max(ZERO));
            }
        }
    }
    (of_losses, of_tensors)
}

/// Compares losses, and parameters and gradients from the checkpoint: after one step the momentum is the gradient.
/// Both runs compute the same in the same order; the tolerance allows libtorch to split its sums differently among
/// threads.
#[test]
fn a_step_of_the_dataflow_is_a_step_of_one_process() {
    let bench = Bench::alone(3, 12);
    for windows in [1, 3] {
        for (stage, generator_only) in [("stage1", 1), ("stage2", 0)] {
            let mut config = config(&bench, windows, 1, generator_only);
            config.schedule.iterations_per_epoch = 1;
            let names = ["process", "dataflow"].map(|place| format!("{place}-{stage}-{windows}"));
            train_in_process(&bench, &names[0], &config);
            train(&bench, &names[1], &config, false);
            let (losses, tensors) = difference(&bench, [&names[1], &names[0]]);
            println!(
                "{stage}, {windows} windows: losses {losses:.1e}, parameters and gradients {tensors:.1e}"
            );
            assert!(losses <= 1e-5 && tensors <= 1e-5, "{stage}, {windows}: {losses} {tensors}");
        }
    }
}

/// Voxels that do not count travel as 255, and teach nothing in either.
#[test]
fn ignored_voxels_are_left_out_in_the_dataflow_as_in_one_process() {
    let bench = Bench::alone(3, 12);
    let mut config = config(&bench, 2, 1, 0);
    config.schedule.iterations_per_epoch = 1;
    config.model.classes.truncate(2);
    config.data.ignore = [2].into_iter().collect();
    train_in_process(&bench, "process", &config);
    train(&bench, "dataflow", &config, false);
    let (losses, tensors) = difference(&bench, ["dataflow", "process"]);
    println!("ignored voxels: losses {losses:.1e}, parameters and gradients {tensors:.1e}");
    assert!(losses <= 1e-5 && tensors <= 1e-5, "{losses} {tensors}");
}

/// With finer features the embedding has several levels, and the decoder answers each with a gradient. The second step has
/// gradients of all of them.
#[test]
fn steps_with_finer_features_and_a_loss_of_masks_are_those_of_one_process() {
    let bench = Bench::alone(3, 12);
    let mut config = config(&bench, 2, 1, 0);
    config.schedule.iterations_per_epoch = 2;
    config.model.network.finer_features = true;
    config.loss.decoder_masks = 0.5;
    train_in_process(&bench, "process", &config);
    train(&bench, "dataflow", &config, false);
    let (losses, tensors) = difference(&bench, ["dataflow", "process"]);
    println!("finer features: losses {losses:.1e}, parameters and gradients {tensors:.1e}");
    assert!(losses <= 1e-5 && tensors <= 1e-5, "{losses} {tensors}");
}

/// Messages between the parts are lossless in bf16 as well.
#[test]
fn a_step_in_bf16_is_one_of_one_process() {
    let bench = Bench::alone(3, 12);
    let mut config = TrainingConfig { precision: Precision::Bf16, ..config(&bench, 2, 1, 0) };
    config.schedule.iterations_per_epoch = 1;
    train_in_process(&bench, "process", &config);
    train(&bench, "dataflow", &config, false);
    let (losses, tensors) = difference(&bench, ["dataflow", "process"]);
    println!("bf16: losses {losses:.1e}, parameters and gradients {tensors:.1e}");
    assert!(losses <= 1e-5 && tensors <= 1e-5, "{losses} {tensors}");
}

#[test]
fn fifty_steps_of_the_dataflow_are_those_of_one_process() {
    let bench = Bench::alone(3, 12);
    let config = calm(config(&bench, 2, 10, 4));
    train_in_process(&bench, "process", &config);
    train(&bench, "dataflow", &config, false);
    let (losses, tensors) = difference(&bench, ["dataflow", "process"]);
    println!("losses {losses:.1e}, parameters and momenta {tensors:.1e}");
    assert!(losses <= 1e-4 && tensors <= 0.5, "{losses} {tensors}");
}

#[test]
fn a_run_goes_on_after_any_node_was_killed_and_ends_as_the_uninterrupted_one() {
    let bench = Bench::alone(3, 12);
    let config = calm(config(&bench, 1, 8, 4));
    train(&bench, "whole", &config, false);
    let nodes = [
        "image-encoder",
        "prompt-generator",
        "mask-decoder",
        "prompt-extractor",
        "volume-loader",
        "metrics-writer",
    ];
    for (place, node) in nodes.into_iter().enumerate() {
        let mut run = start(&bench, "killed", &config, place > 0);
        // Kill each node a little later in the run.
        let step = format!("step-{:08}/manifest.json", 5 * (place + 1));
        run.wait_for_file(&bench.path("killed/checkpoints").join(step));
        run.kill(&format!("spsam-{node}"));
        let status = run.finish();
        assert!(!status.success(), "{node} was killed; log:\n{}", run.log());
    }
    let log = train(&bench, "killed", &config, true);
    assert!(log.contains("goes on after step"), "{log}");
    let (losses, tensors) = difference(&bench, ["killed", "whole"]);
    println!("losses {losses:.1e}, parameters and momenta {tensors:.1e}");
    assert!(losses <= 1e-4 && tensors <= 0.5, "{losses} {tensors}");
}

/// `spsam train`, with its results in the folder `name` of the bench.
fn spsam(bench: &Bench, name: &str, config: &TrainingConfig, arguments: &[&str]) -> Run {
    let config = TrainingConfig { output: bench.path(name), ..config.clone() };
    let file = bench.path("config.yml");
    config.write(&file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spsam"));
    // Without build commands: with the environment that cargo gives a test, they would start from scratch.
    let dataflow = bench.dataflow("dataflows/train.yml", |text| text);
    command.arg("train").arg("--config").arg(file).arg("--dataflow").arg(dataflow).args(arguments);
    bench.launch(command, name, &[])
}

#[test]
fn ctrl_c_writes_a_checkpoint_and_the_run_goes_on_from_it() {
    let bench = Bench::alone(3, 12);
    let mut config = calm(config(&bench, 1, 2, 1));
    config.schedule.iterations_per_epoch = 20;
    train(&bench, "whole", &config, false);
    let mut run = spsam(&bench, "stopped", &config, &["--verbose"]);
    run.wait_for("starting dataflow");
    run.signal("INT");
    let status = run.finish();
    assert!(status.success() && run.log().contains("--resume goes on"), "{status}; log:\n{}", run.log());
    let (step, ..) = result(&bench.path("stopped"));
    assert!(step > 0 && step < 40, "{step}");
    let again = spsam(&bench, "stopped", &config, &[]).finish();
    assert!(!again.success(), "a new run must not begin over an old one");
    let mut run = spsam(&bench, "stopped", &config, &["--resume"]);
    let status = run.finish();
    assert!(status.success(), "{status}; log:\n{}", run.log());
    let (losses, tensors) = difference(&bench, ["stopped", "whole"]);
    println!("losses {losses:.1e}, parameters and momenta {tensors:.1e}");
    assert!(losses <= 1e-4 && tensors <= 0.5, "{losses} {tensors}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint() {
    let bench = Bench::alone(3, 12);
    let mut config = config(&bench, 1, 8, 0);
    config.learning_rate = LearningRate::WarmUpCosine { peak: 1e30, warm_up_steps: 0, last: 0.0 };
    config.optimiser.clip_norm = None;
    config.schedule.iterations_per_epoch = 1;
    let mut run = start(&bench, "diverging", &config, false);
    let status = run.finish();
    assert!(!status.success());
    let log = run.log();
    let error =
        log.lines().find(|line| line.contains("metrics-writer") && line.contains("ERROR")).unwrap_or("");
    assert!(error.contains("step 1: the loss is") || error.contains("step 1: the norm"), "{log}");
    assert_eq!(result(&bench.path("diverging")).0, 1);
}

#[test]
fn a_shard_that_cannot_be_written_does_not_end_the_run() {
    let bench = Bench::alone(3, 12);
    let config = config(&bench, 1, 3, 1);
    let checkpoints = bench.path("blocked/checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    fs::write(checkpoints.join("step-00000010"), "in the way of the folder").unwrap();
    let log = train(&bench, "blocked", &config, true);
    assert!(log.contains("step-00000010") && log.contains("the training goes on"), "{log}");
    assert_eq!(result(&bench.path("blocked")).0, 15);
}

#[test]
fn lost_messages_are_sent_again_and_change_nothing() {
    let bench = Bench::alone(3, 12);
    let mut config = calm(config(&bench, 2, 2, 1));
    config.schedule.iterations_per_epoch = 3;
    train_in_process(&bench, "process", &config);
    let config = TrainingConfig { output: bench.path("lossy"), ..config };
    fs::create_dir_all(&config.output).unwrap();
    let file = config.output.join("config.yml");
    config.write(&file).unwrap();
    // Gradients on their way back to the encoder, from both parts, pass through a node that loses some.
    let lossy = |from: &str, output: &str, urn: &str| {
        format!(
            "\n  - id: lossy-{output}\n    path: {}\n    inputs:\n      in: {{ source: {from}/{output}, \
             queue_size: 2048, queue_policy: drop_oldest }}\n    input_types:\n      in: spsam/v1/{urn}\n    \
             outputs: [out]\n    output_types:\n      out: spsam/v1/{urn}\n",
            project().join("tests/python/lossy_node.py").display()
        )
    };
    let dataflow = bench.dataflow("dataflows/train.yml", |text| {
        let nodes = [
            lossy("prompt-generator", "features_grad", "FeaturesGrad"),
            lossy("mask-decoder", "embedding_grad", "EmbeddingGrad"),
        ];
        let text = text
            .replace("source: prompt-generator/features_grad", "source: lossy-features_grad/out")
            .replace("source: mask-decoder/embedding_grad", "source: lossy-embedding_grad/out");
        format!("{text}{}", nodes.concat())
    });
    let path = format!(
        "{}:{}",
        super::harness::python().parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let settings = [("SPSAM_TRAINING", file.to_str().unwrap()), ("PATH", &*path)];
    let mut run = bench.start(&dataflow, "lossy", &settings);
    let status = run.finish();
    assert!(status.success(), "{status}; log:\n{}", run.log());
    let again = run.log().matches("is sent again").count();
    println!("{again} steps were sent again");
    // Of windows 0 to 11 in six steps, windows 2 and 7 lose gradients.
    assert!(again >= 2, "{}", run.log());
    let (losses, tensors) = difference(&bench, ["lossy", "process"]);
    assert!(losses <= 1e-4 && tensors <= 0.5, "{losses} {tensors}");
}
