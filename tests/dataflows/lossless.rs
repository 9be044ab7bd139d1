//! Every case is completed with identical bytes, despite a busy CPU, a tiny shared-memory pool, killed nodes and
//! unreadable files.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use self_prompt_sam::bundle::Bundle;
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::Segmenter;
use self_prompt_sam::volume::{self, CasePlan, LabelAssembler, PreparedCase};
use tch::Tensor;

use super::harness::{Bench, Run, full, label_maps, python};
use super::skip::shortened;

const CASES: usize = 4;
/// Windows of 4 slices in steps of 2 make 11 windows per case.
const SLICES: usize = 24;
const MIDDLE: [&str; 4] =
    ["spsam-image-encoder", "spsam-prompt-generator", "spsam-prompt-extractor", "spsam-mask-decoder"];

fn run_to_the_end(mut run: Run) -> Run {
    let status = run.finish();
    assert!(status.success(), "{status}; log:\n{}", run.log());
    assert_eq!(run.label_maps().len(), CASES);
    run
}

/// Label maps of the in-process segmenter, as files.
fn reference(bench: &Bench) -> std::collections::BTreeMap<String, Vec<u8>> {
    let bundle = Bundle::open(&bench.path("bundle")).unwrap();
    let segmenter = Segmenter::load(&bundle, Compute::fp32(tch::Device::Cpu)).unwrap();
    let folder = bench.path("reference");
    fs::create_dir_all(&folder).unwrap();
    for files in volume::discover(&bench.path("images"), None, 1).unwrap() {
        let plan = CasePlan::new(&files, &bundle.config, None).unwrap();
        let case = PreparedCase::open(&plan, &bundle.config).unwrap();
        let mut assembler = LabelAssembler::new(&plan, bundle.config.classes.len());
        for window in 0..plan.windows().len() {
            let voxels = case.window(window);
            let shape: Vec<i64> = voxels.shape().iter().map(|&size| size as i64).collect();
            let values: Vec<f32> = voxels.iter().copied().collect();
            let slices = Tensor::from_slice(&values).view(&shape[..]).transpose(0, 1);
            let logits = segmenter.segment(&slices, plan.covered(window), None).unwrap();
            let logits = logits.transpose(0, 1).contiguous(); // [N, D, H, W]
            let shape: Vec<usize> = logits.size().iter().map(|&size| size as usize).collect();
            let values = Vec::<f32>::try_from(logits.view(-1)).unwrap();
            let logits =
                ndarray::ArrayView4::from_shape((shape[0], shape[1], shape[2], shape[3]), &values).unwrap();
            assembler.push(window, logits).unwrap();
        }
        let path = folder.join(format!("{}.nii.gz", plan.files.case_id.as_str()));
        volume::write_labels(
            &path,
            &assembler.finish(),
            &files.images[0],
            &volume::ClassTable::of_model(&bundle.config.classes),
        )
        .unwrap();
    }
    super::harness::label_maps(&folder)
}

#[test]
fn nothing_is_lost_and_results_are_those_of_the_segmenter() {
    let bench = Bench::alone(CASES, SLICES);
    let unmirrored = reference(&bench);
    mirror(&bench);
    let expected = reference(&bench);
    assert_ne!(unmirrored, expected);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let run = run_to_the_end(bench.start(&flow, "unmirrored", &[("SPSAM_MIRROR", "0")]));
    assert_eq!(run.label_maps(), unmirrored);
    let tiny_pool = bench.dataflow("dataflows/infer.yml", |text| with_pool(&text, "128KB"));

    let rounds = if full() { 20 } else { 2 };
    if !full() {
        shortened("2 of 20 busy runs and 1 of 4 kills: `cargo xtask test --full` runs all");
    }
    let busy = AtomicBool::new(true);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _stop = Stop(&busy);
        for round in 0..rounds {
            let run = run_to_the_end(bench.start(&flow, &format!("busy-{round}"), &[]));
            assert_eq!(run.label_maps(), expected, "busy run {round} differs");
        }
    });

    let run = run_to_the_end(bench.start(&tiny_pool, "tiny-pool", &[]));
    assert_eq!(run.label_maps(), expected, "the run with a tiny pool differs");

    let victims = if full() { &MIDDLE[..] } else { &MIDDLE[1..2] };
    for victim in victims {
        let mut run = bench.start(&flow, &format!("kill-{victim}"), &[]);
        run.wait_for("case 2/4");
        run.kill(victim);
        let run = run_to_the_end(run);
        assert_eq!(run.label_maps(), expected, "the run in which {victim} was killed differs");
    }
}

/// Ends the threads that keep the CPU busy, also if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Turns mirroring on in the bundle.
fn mirror(bench: &Bench) {
    let path = bench.path("bundle").join("model.yml");
    let mut bundle = Bundle::open(&path).unwrap().config;
    bundle.patch.mirror = [false, false, true];
    fs::write(&path, serde_yaml::to_string(&bundle).unwrap()).unwrap();
}

fn with_pool(text: &str, size: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("shared_memory_pool_size:") {
        Some((indent, _)) => format!("{indent}shared_memory_pool_size: {size}"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_unreadable_case_is_named_and_the_others_complete() {
    let bench = Bench::new(3, 8);
    let broken = bench.path("images").join("case_1.nii.gz");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let mut run = bench.start(&flow, "output", &[]);
    assert!(!run.finish().success());
    let maps: Vec<String> = run.label_maps().into_keys().collect();
    assert_eq!(maps, ["case_0.nii.gz", "case_2.nii.gz"]);
    assert!(run.log().contains("case_1.nii.gz"), "{}", run.log());
    let summary = run.summary();
    assert_eq!(summary["cases"], 2);
    assert_eq!(summary["failed"][0]["case"], "case_1");
}

/// A label that the model does not have gives no prompts, however often its window is sent.
#[test]
fn a_window_that_cannot_be_computed_fails_its_case_alone() {
    let bench = Bench::new(3, 8);
    let script = "import nibabel, sys; image = nibabel.load(sys.argv[1]); \
                  labels = image.get_fdata().astype('uint8'); labels[0, 0] = 9; \
                  nibabel.save(nibabel.Nifti1Image(labels, image.affine), sys.argv[1])";
    let poisoned = bench.path("labels").join("case_1.nii.gz");
    assert!(Command::new(python()).args(["-c", script]).arg(&poisoned).status().unwrap().success());
    let flow = bench.dataflow("dataflows/oracle.yml", |text| text);
    let mut run = bench.start(&flow, "output", &[]);
    assert!(!run.finish().success());
    assert_eq!(run.label_maps().into_keys().collect::<Vec<_>>(), ["case_0.nii.gz", "case_2.nii.gz"]);
    let summary = run.summary();
    assert_eq!(summary["cases"], 2);
    assert_eq!(summary["failed"].as_array().unwrap().len(), 1);
    let error = summary["failed"][0]["error"].as_str().unwrap();
    assert!(error.contains("case_1") && error.contains("label 9"), "{error}");
}

#[test]
fn the_input_is_never_overwritten() {
    let bench = Bench::new(1, 4);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let images = bench.path("images");
    let before = label_maps(&images);
    let mut run = bench.start(&flow, "images", &[]);
    assert!(!run.finish().success());
    assert!(run.log().contains("would overwrite"), "{}", run.log());
    assert_eq!(label_maps(&images), before);
}

#[test]
fn a_terminated_command_takes_its_dataflow_with_it() {
    let bench = Bench::new(4, 48);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_spsam"));
    command.args(["infer", "--precision", "fp32", "--device", "cpu"]);
    for (option, path) in
        [("--dataflow", &flow), ("--input", &bench.path("images")), ("--model", &bench.path("bundle"))]
    {
        command.arg(option).arg(path);
    }
    command.arg("--output").arg(bench.path("output"));
    let mut run = bench.launch(command, "output", &[]);
    run.wait_for_file(&bench.path("output/case_0.nii.gz"));
    assert!(run.processes().len() > 6, "{:?}", run.processes());
    run.signal("TERM");
    assert!(!run.finish().success());
    assert!(run.log().contains("stopped; the label maps"), "{}", run.log());
    assert_eq!(run.processes(), []);
}
