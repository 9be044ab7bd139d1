//! The example prompt nodes take the place of ours.

use super::harness::{Bench, project, python};

/// The prompts of both examples are boxes made from labels.
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
        let bin = python().parent().unwrap().display().to_string();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
        let mut run = bench.start(&flow, name, &[("SPSAM_MODEL", ""), ("PATH", &path)]);
        assert!(run.finish().success(), "{name}; log:\n{}", run.log());
        assert_eq!(run.label_maps().len(), 2);
        results.push(run.label_maps());
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
