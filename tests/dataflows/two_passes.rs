//! Cases in two passes: the same label maps with far fewer windows.

use std::fs;

use self_prompt_sam::bundle::{Bundle, Locate, Normalisation};
use self_prompt_sam::volume::{CasePlan, discover};

use super::harness::{Bench, project, python};
use super::nifti::Nifti;

/// Loader and writer with a thresholding node between them.
fn flow(bench: &Bench) -> std::path::PathBuf {
    bench.dataflow("dataflows/infer.yml", |text| {
        let (settings, nodes) = text.split_once("nodes:\n").unwrap();
        let node = |id: &str| {
            let from = nodes.find(&format!("  - id: {id}\n")).unwrap();
            let length = nodes[from + 1..].find("\n  - id:").map_or(nodes.len() - from, |length| length + 2);
            nodes[from..from + length].to_owned()
        };
        let is_status = |line: &&str| !line.contains("status");
        let loader: String =
            node("volume-loader").lines().filter(is_status).map(|line| format!("{line}\n")).collect();
        let writer = node("metrics-writer").replace("mask-decoder/logits", "threshold/logits");
        let script = project().join("tests/python/threshold_node.py");
        let threshold = format!(
            "  - id: threshold\n    path: {}\n    args: {}\n    inputs:\n      slices: {{ source: volume-loader/slices, \
             queue_size: 2048 }}\n    outputs: [logits]\n",
            python().display(),
            script.display()
        );
        format!("{}nodes:\n{loader}{threshold}{writer}", settings.replace("strict_types: true", ""))
    })
}

#[test]
fn label_maps_are_the_same_with_fewer_windows() {
    let bench = Bench::new(1, 4);
    let images = bench.path("images");
    for file in fs::read_dir(&images).unwrap().flatten() {
        fs::remove_file(file.path()).unwrap();
    }
    let found = Some([[90, 110], [40, 60], [2, 5]]);
    for (name, block) in [("block", found), ("none", None)] {
        let value = |index: usize| {
            let place = [index % 130, index / 130 % 120, index / (130 * 120)];
            let inside = |block: [[usize; 2]; 3]| {
                (0..3).all(|axis| (block[axis][0]..block[axis][1]).contains(&place[axis]))
            };
            u8::from(block.is_some_and(inside))
        };
        let voxels = (0..130 * 120 * 8).map(value).collect();
        Nifti::new(&[130, 120, 8], 2, voxels).write(&images.join(format!("{name}.nii")));
    }
    let mut config = Bundle::open(&bench.path("bundle")).unwrap().config;
    config.normalisation = Normalisation::Window { low: 0.0, high: 1.0 };
    config.patch.mirror = [false, true, true];
    config.patch.locate = Some(Locate::default());
    fs::write(bench.path("bundle/model.yml"), serde_yaml::to_string(&config).unwrap()).unwrap();

    let flow = flow(&bench);
    let segmented = |output: &str, locate: &str| {
        let mut run = bench.start(&flow, output, &[("SPSAM_LOCATE", locate), ("SPSAM_LABELS", "")]);
        let status = run.finish();
        assert!(status.success(), "{status}; log:\n{}", run.log());
        (run.label_maps(), run.log())
    };
    let (everywhere, log) = segmented("everywhere", "0");
    assert_eq!(everywhere.len(), 2);
    assert!(!log.contains("windows, found"), "{log}");
    let (twice, log) = segmented("twice", "1");
    assert_eq!(twice, everywhere);
    for files in discover(&images, None, 1).unwrap() {
        let plan = CasePlan::new(&files, &config, None).unwrap();
        let expected = plan.around(found.filter(|_| files.case_id.as_str() == "block")).windows().len();
        let all = plan.windows().len();
        assert!(files.case_id.as_str() == "none" || expected < all / 3, "{expected} of {all}");
        let line = format!("case {}: {expected} of {all} windows, found", files.case_id.as_str());
        assert!(log.contains(&line), "no `{line}` in\n{log}");
    }
}
