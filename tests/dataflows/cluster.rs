//! `dataflows/cluster.yml` and `dataflows/replicas.yml` on dora daemons that share no network, no shared memory and no node:
//! each has its own network namespace, and virtual cables connect them (`cluster.sh`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_yaml::Value;

use super::harness::{Bench, project};
use super::skip::{shortened, skipped};

const CASES: usize = 3;
/// Windows of 4 slices in steps of 2 make 7 windows per case.
const SLICES: usize = 16;
const WINDOWS_BYTES: u64 = (CASES * 7 * 4 * 64 * 64 * size_of::<f32>()) as u64;
/// Checks what [`isolated`] and `cluster.sh` need; fails with one line that says what is missing.
const PROBE: &str = "command -v ip >/dev/null || { echo 'no `ip`: install iproute2' >&2; exit 1; }; \
    mount -t tmpfs tmpfs /run && ip netns add gpu && ip link add front type veth peer name gpu netns gpu && \
    ip netns exec gpu mount -t tmpfs tmpfs /dev/shm";

/// A command that runs `sh` with `arguments` as the first process of new namespaces. All processes in them end with
/// it, and it ends with the command.
fn isolated(arguments: &[&Path]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"])
        .args(arguments);
    command
}

/// Why this machine cannot simulate two machines, if it cannot.
fn obstacle() -> Option<String> {
    let output = isolated(&["-c", PROBE].map(Path::new)).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Runs a dataflow on `front` and these machines. The bytes that `front` has sent to each.
fn run_on(bench: &Bench, flow: &Path, machines: &[&str]) -> (BTreeMap<String, Vec<u8>>, Vec<u64>) {
    let (script, dora) = (project().join("tests/dataflows/cluster.sh"), project().join(".spsam/bin/dora"));
    let machines = machines.iter().map(Path::new);
    let arguments: Vec<&Path> = [&*script, &*dora, flow].into_iter().chain(machines).collect();
    let mut run = bench.launch(isolated(&arguments), "machines", &[]);
    assert!(run.finish().success(), "{}", run.log());
    let log = run.log();
    let sent = log.lines().filter(|line| line.starts_with("front sent "));
    (run.label_maps(), sent.map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap()).collect())
}

fn run_here(bench: &Bench, flow: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut run = bench.start(flow, "here", &[]);
    assert!(run.finish().success(), "{}", run.log());
    assert_eq!(run.label_maps().len(), CASES);
    run.label_maps()
}

#[test]
fn two_machines_give_the_same_label_maps_as_one() {
    if let Some(obstacle) = obstacle() {
        skipped(&format!("needs root and iproute2 to make network namespaces: {obstacle}"));
        return;
    }
    let bench = Bench::alone(CASES, SLICES);
    let here = run_here(&bench, &bench.dataflow("dataflows/infer.yml", |text| text));
    let flow = bench.dataflow("dataflows/cluster.yml", |text| text);
    let (there, sent) = run_on(&bench, &flow, &["gpu"]);
    assert!(there == here, "label maps differ");
    assert!(sent[0] > WINDOWS_BYTES, "{} bytes are not even the {WINDOWS_BYTES} of the slices", sent[0]);
}

/// The machine of a node in the test with three.
fn machine(node: &str) -> &'static str {
    match node {
        "volume-loader" | "metrics-writer" => "front",
        node if node.ends_with("-2") => "gpu2",
        _ => "gpu",
    }
}

#[test]
fn replicas_share_the_windows_and_give_the_same_label_maps() {
    let bench = Bench::alone(CASES, SLICES);
    let here = run_here(&bench, &bench.dataflow("dataflows/infer.yml", |text| text));
    let flow = bench.dataflow("dataflows/replicas.yml", |text| text);
    assert!(run_here(&bench, &flow) == here, "label maps differ");
    if let Some(obstacle) = obstacle() {
        shortened(&format!("three machines need root and iproute2: {obstacle}"));
        return;
    }
    let flow = bench.dataflow("dataflows/replicas.yml", |text| {
        let lines = text.lines().map(|line| match line.strip_prefix("  - id: ") {
            Some(node) => format!("{line}\n    deploy: {{ machine: {} }}\n", machine(node)),
            None => format!("{line}\n"),
        });
        lines.collect()
    });
    let (there, sent) = run_on(&bench, &flow, &["gpu", "gpu2"]);
    assert!(there == here, "label maps differ");
    assert!(sent.iter().all(|&bytes| bytes > WINDOWS_BYTES / 4), "a replica had next to nothing: {sent:?}");
}

#[test]
fn the_replicas_dataflow_is_infer_with_the_nodes_in_the_middle_twice() {
    let mut replicas = dataflow("replicas.yml");
    let nodes = replicas["nodes"].as_sequence_mut().unwrap();
    let is_second = |node: &Value| node["id"].as_str().unwrap().ends_with("-2");
    let (second, mut first): (Vec<Value>, Vec<Value>) = nodes.drain(..).partition(is_second);
    let first_of = |node: &mut Value| {
        node.as_mapping_mut().unwrap().remove("env").unwrap();
        let text = serde_yaml::to_string(node).unwrap().replace("slices_2", "slices").replace("-2", "");
        serde_yaml::from_str::<Value>(&text).unwrap()
    };
    let again: Vec<Value> = second.into_iter().map(|mut node| first_of(&mut node)).collect();
    assert_eq!(again, first[1..5]);
    for node in &mut first {
        for ports in ["inputs", "input_types", "output_types"] {
            let Some(ports) = node[ports].as_mapping_mut() else { continue };
            ports.retain(|name, _| !name.as_str().unwrap().ends_with("_2"));
        }
        let outputs = node["outputs"].as_sequence_mut().unwrap();
        outputs.retain(|name| name != "slices_2");
    }
    replicas["nodes"] = first.into();
    assert_eq!(replicas, dataflow("infer.yml"));
}

fn dataflow(name: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(project().join("dataflows").join(name)).unwrap()).unwrap()
}

#[test]
fn the_cluster_dataflow_is_infer_with_a_machine_for_every_node() {
    let mut cluster = dataflow("cluster.yml");
    for node in cluster["nodes"].as_sequence_mut().unwrap() {
        let deploy = node.as_mapping_mut().unwrap().remove("deploy").unwrap();
        assert!(deploy["machine"].is_string(), "{deploy:?}");
    }
    assert_eq!(cluster, dataflow("infer.yml"));
}
