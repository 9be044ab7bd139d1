//! The example prompt nodes replace ours.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ndarray::Array3;
use self_prompt_sam::volume::read_labels;

use super::harness::{Bench, label_maps, project, python};

/// Least Dice between the results of the example nodes and of our own.
const AGREE: f64 = 0.9;

/// Both examples make boxes from labels.
#[test]
fn example_nodes_give_the_same_results_as_ours() {
    let bench = Bench::new(2, 8);
    let weights = project().join(".spsam/weights/lite_medsam.pth");
    assert!(weights.exists(), "{}: run `cargo xtask setup`", weights.display());
    let mut results = Vec::new();
    for (name, dataflow) in [
        ("ours", "dataflows/oracle.yml"),
        ("python", "examples/custom-prompt-python/dataflow.yml"),
        ("rust", "examples/custom-prompt-rust/dataflow.yml"),
    ] {
        let flow = bench.dataflow(dataflow, |text| {
            let folder = project().join("examples/custom-prompt-python");
            text.replace("path: prompt_node.py", &format!("path: {}/prompt_node.py", folder.display()))
        });
        let path = path_with_python();
        let mut run = bench.start(&flow, name, &[("SPSAM_MODEL", ""), ("PATH", &path)]);
        assert!(run.finish().success(), "{name}; log:\n{}", run.log());
        assert_eq!(run.label_maps().len(), 2);
        results.push(run.label_maps());
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

/// `PATH` with the project's Python first: dora starts `.py` nodes with the first one it finds.
fn path_with_python() -> String {
    let bin = python().parent().unwrap().display().to_string();
    format!("{bin}:{}", std::env::var("PATH").unwrap_or_default())
}

/// A coordinator and a daemon for this test; both end with it.
struct Dora<'a> {
    bench: &'a Bench,
}

impl<'a> Dora<'a> {
    fn up(bench: &'a Bench) -> Self {
        let dora = Self { bench };
        dora.call(&["up"]);
        dora
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(project().join(".spsam/bin/dora"));
        command
            .args(arguments)
            .current_dir(self.bench.folder.path())
            .env("PATH", path_with_python())
            .env("SPSAM_INPUT", self.bench.path("images"))
            .env("SPSAM_MODEL", self.bench.path("bundle"))
            .env("SPSAM_OUTPUT", self.bench.path("output"))
            .env("SPSAM_DEVICE", "cpu")
            .env("SPSAM_ACK_TIMEOUT_SECS", "4")
            .stdin(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "dora {arguments:?}: {said}");
    }
}

impl Drop for Dora<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}

/// A file for `dora node replace` with absolute paths.
fn replacement(bench: &Bench, name: &str, program: &Path) -> String {
    let text = fs::read_to_string(project().join("examples/custom-prompt-python/replace-infer.yml")).unwrap();
    let path = bench.path(name);
    let text =
        text.replace("../examples/custom-prompt-python/prompt_node.py", &program.display().to_string());
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn replacing_a_node_in_a_running_dataflow_loses_nothing() {
    const CASES: usize = 8;
    let bench = Bench::alone(CASES, 24);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text).display().to_string();
    let to_python =
        replacement(&bench, "python.yml", &project().join("examples/custom-prompt-python/prompt_node.py"));
    let to_rust = replacement(&bench, "rust.yml", &project().join("target/release/spsam-prompt-extractor"));
    let output = bench.path("output");
    let dora = Dora::up(&bench);
    let mut attached = dora
        .command(&["start", &flow, "--name", "swap", "--attach"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(240);
    let mut wait_for = |cases: usize| {
        while label_maps(&output).len() < cases {
            assert!(Instant::now() < deadline, "only {} of {cases} cases came", label_maps(&output).len());
            assert!(
                attached.try_wait().unwrap().is_none() || label_maps(&output).len() >= cases,
                "ended early"
            );
            thread::sleep(Duration::from_millis(50));
        }
    };
    for (replacement, cases) in [(&to_python, 1), (&to_rust, 4)] {
        wait_for(cases);
        dora.call(&["node", "replace", "--dataflow", "swap", "prompt-extractor", "--from-yaml", replacement]);
    }
    wait_for(CASES);
    assert!(attached.wait().unwrap().success());
    assert!(output.join("report.html").exists());
}

/// Dice of each class between two label maps.
fn agreement(one: &Path, other: &Path) -> Vec<f64> {
    let [one, other] = [one, other].map(|path| read_labels(path).unwrap().0);
    let count = |labels: &Array3<u8>, class: u8| labels.iter().filter(|&&label| label == class).count();
    let classes = 1..=one.iter().copied().max().unwrap();
    classes
        .map(|class| {
            let both = one.iter().zip(&other).filter(|(a, b)| **a == class && **b == class).count();
            2.0 * both as f64 / (count(&one, class) + count(&other, class)) as f64
        })
        .collect()
}

/// A box per class around the auxiliary masks, as the examples make it, is as good for the shipped model as its own point, box
/// and mask.
#[test]
fn boxes_of_example_nodes_are_as_good_as_the_models_own_prompts() {
    let bench = Bench::alone(1, 4);
    let model = project().join("models/hippocampus");
    let head = project().join(".spsam/sample/mni152_t1.nii.gz");
    let path = path_with_python();
    let settings = [
        ("SPSAM_INPUT", head.to_str().unwrap()),
        ("SPSAM_MODEL", model.to_str().unwrap()),
        ("SPSAM_ROI", "left=-44,-46,-32,-9,6,6"),
        ("SPSAM_MIRROR", "0"),
        ("SPSAM_LABELS", ""),
        ("SPSAM_PRECISION", "auto"),
        ("PATH", &path),
    ];
    let examples = project().join("examples/custom-prompt-python");
    let own = "path: ../target/release/spsam-prompt-extractor";
    for (name, program) in [
        ("ours", own.to_owned()),
        ("python", format!("path: {}/prompt_node.py", examples.display())),
        ("rust", "path: ../target/release/custom-prompt-rust".to_owned()),
    ] {
        let flow = bench.dataflow("dataflows/infer.yml", |text| text.replace(own, &program));
        let mut run = bench.start(&flow, name, &settings);
        assert!(run.finish().success(), "{name}; log:\n{}", run.log());
    }
    let [ours, python, rust] =
        ["ours", "python", "rust"].map(|name| bench.path(name).join("mni152_t1_left.nii.gz"));
    assert_eq!(fs::read(&python).unwrap(), fs::read(&rust).unwrap(), "the examples make the same boxes");
    let agreement = agreement(&ours, &python);
    println!("Dice by class: {agreement:.4?}");
    assert!(agreement.len() == 2 && agreement.iter().all(|&dice| dice > AGREE), "{agreement:?}");
}
