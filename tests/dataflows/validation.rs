//! dora's checks accept every dataflow and node manifest, and reject faulty ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::skip::skipped;

const NODES: [&str; 6] = [
    "volume-loader",
    "image-encoder",
    "prompt-generator",
    "prompt-extractor",
    "mask-decoder",
    "metrics-writer",
];

/// Nodes of live dataflows.
const LIVE_NODES: [&str; 2] = ["scanner-source", "live-view"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The dora command of the project's Python environment; if that is not set up, `None`, and the test counts as
/// skipped.
fn dora() -> Option<PathBuf> {
    let python =
        std::env::var_os("SPSAM_PYTHON").map_or_else(|| root().join(".spsam/venv/bin/python"), PathBuf::from);
    let dora = python.with_file_name("dora");
    if !dora.is_file() {
        skipped("needs the Python environment: `cargo xtask setup --test`");
        return None;
    }
    Some(dora)
}

fn validate(dora: &Path, arguments: &[&str], file: &Path) -> (bool, String) {
    let Output { status, stdout, stderr } =
        Command::new(dora).arg("validate").args(arguments).arg(file).output().unwrap();
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn every_edge_of_every_dataflow_has_its_type() {
    let Some(dora) = dora() else { return };
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("dataflows"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    files.extend(
        ["python", "rust"].map(|name| root().join(format!("examples/custom-prompt-{name}/dataflow.yml"))),
    );
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let (passes, said) = validate(&dora, &["--strict-types"], &file);
        assert!(passes && said.contains("All type annotations OK"), "{}: {said}", file.display());
        // dora infers the type of an edge only if we have not declared it.
        assert!(!said.contains("inferred"), "{}: {said}", file.display());
    }
}

#[test]
fn an_edge_in_the_wrong_input_is_refused() {
    let Some(dora) = dora() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("dataflows/types"), folder.path().join("types")).unwrap();
    let flow = fs::read_to_string(root().join("dataflows/infer.yml")).unwrap();
    let wrong = flow.replace("source: image-encoder/embedding", "source: image-encoder/features");
    assert_ne!(flow, wrong);
    let file = folder.path().join("infer.yml");
    fs::write(&file, wrong).unwrap();
    let (passes, said) = validate(&dora, &["--strict-types"], &file);
    assert!(!passes && said.contains("type mismatch on input \"embedding\""), "{said}");
}

#[test]
fn every_node_has_a_manifest_that_validates() {
    let Some(dora) = dora() else { return };
    for node in NODES.iter().chain(&LIVE_NODES) {
        let manifest = root().join("nodes").join(node).join("dora-node.yml");
        let (passes, said) = validate(&dora, &["--node-manifest"], &manifest);
        assert!(passes && said.contains("Node manifest OK"), "{node}: {said}");
    }
}

#[test]
fn manifests_say_the_same_as_the_dataflow_and_its_types() {
    let read = |path: PathBuf| -> serde_yaml::Value {
        serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
    };
    let types = read(root().join("dataflows/types/spsam/v1.yml"));
    let flows = ["infer", "train", "stream"].map(|name| read(root().join(format!("dataflows/{name}.yml"))));
    let oracle = read(root().join("dataflows/oracle.yml"));
    for node in NODES {
        let manifest = read(root().join("nodes").join(node).join("dora-node.yml"));
        for (urn, declared) in manifest["types"].as_mapping().unwrap() {
            let name = urn.as_str().unwrap().strip_prefix("spsam/v1/").unwrap();
            assert_eq!(declared, &types["types"][name], "{node}: {name}");
        }
        for flow in &flows {
            let in_flow =
                flow["nodes"].as_sequence().unwrap().iter().find(|entry| entry["id"] == node).unwrap();
            for (key, ports) in [("input_types", "inputs"), ("output_types", "outputs")] {
                for (port, urn) in in_flow[key].as_mapping().unwrap() {
                    assert_eq!(&manifest[ports][port]["type"], urn, "{node}/{}", port.as_str().unwrap());
                }
            }
        }
        for (variable, _) in manifest["env"].as_mapping().unwrap() {
            let known = flows.iter().chain([&oracle]).any(|flow| flow["env"].get(variable).is_some());
            assert!(known, "{node}: {}", variable.as_str().unwrap());
        }
    }
}

#[test]
fn manifests_of_live_nodes_have_the_types_of_the_dataflows() {
    let read = |path: PathBuf| -> serde_yaml::Value {
        serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
    };
    let types = read(root().join("dataflows/types/spsam/v1.yml"));
    let flow = read(root().join("dataflows/stream.yml"));
    for node in LIVE_NODES {
        let folder = root().join("nodes").join(node);
        let manifest = read(folder.join("dora-node.yml"));
        let declared = manifest["types"].as_mapping().unwrap();
        for (urn, declared) in declared {
            let name = urn.as_str().unwrap().strip_prefix("spsam/v1/").unwrap();
            assert_eq!(declared, &types["types"][name], "{node}: {name}");
        }
        for ports in ["inputs", "outputs"] {
            for (port, described) in manifest[ports].as_mapping().unwrap() {
                assert!(declared.contains_key(&described["type"]), "{node}/{}", port.as_str().unwrap());
            }
        }
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        for (variable, _) in manifest["env"].as_mapping().unwrap() {
            let variable = variable.as_str().unwrap();
            assert!(flow["env"].get(variable).is_some(), "{node}: {variable}");
            assert!(readme.contains(&format!("| `{variable}` |")), "{node}: {variable}");
        }
    }
}

#[test]
fn every_node_has_a_readme_in_the_common_order() {
    let folders = NODES.into_iter().chain(LIVE_NODES).map(|node| format!("nodes/{node}"));
    let examples = ["python", "rust"].map(|name| format!("examples/custom-prompt-{name}"));
    for folder in folders.chain(examples) {
        let text = fs::read_to_string(root().join(&folder).join("README.md")).unwrap();
        let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let expected = ["Behavior", "Inputs", "Outputs", "Environment variables", "Usage", "Build"];
        assert_eq!(headings, expected, "{folder}");
    }
}
