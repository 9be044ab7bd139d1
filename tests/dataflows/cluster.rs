//! `dataflows/cluster.yml` on two dora daemons that share no network, no shared memory and no node: each has its own
//! network namespace, and a virtual cable connects them (`cluster.sh`).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_yaml::Value;

use super::harness::{Bench, project};
use super::skip::skipped;

const CASES: usize = 3;
/// Windows of 4 slices in steps of 2 make 7 windows per case.
const SLICES: usize = 16;
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

#[test]
fn two_machines_give_the_same_label_maps_as_one() {
    if let Some(obstacle) = obstacle() {
        skipped(&format!("needs root and iproute2 to make network namespaces: {obstacle}"));
        return;
    }
    let bench = Bench::alone(CASES, SLICES);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let mut one = bench.start(&flow, "one", &[]);
    assert!(one.finish().success(), "{}", one.log());
    assert_eq!(one.label_maps().len(), CASES);

    let flow = bench.dataflow("dataflows/cluster.yml", |text| text);
    let script = project().join("tests/dataflows/cluster.sh");
    let command = isolated(&[&script, &project().join(".spsam/bin/dora"), &flow]);
    let mut two = bench.launch(command, "two", &[]);
    assert!(two.finish().success(), "{}", two.log());
    assert!(two.label_maps() == one.label_maps(), "label maps differ; log:\n{}", two.log());

    let log = two.log();
    let traffic = log.lines().find(|line| line.starts_with("front sent ")).unwrap();
    println!("{traffic}");
    let bytes: u64 = traffic.split_whitespace().nth(2).unwrap().parse().unwrap();
    let slices = (CASES * 7 * 4 * 64 * 64 * size_of::<f32>()) as u64;
    assert!(bytes > slices, "{bytes} bytes are not even the {slices} of the slices");
}

#[test]
fn the_cluster_dataflow_is_infer_with_a_machine_for_every_node() {
    let read = |name: &str| -> Value {
        serde_yaml::from_str(&fs::read_to_string(project().join("dataflows").join(name)).unwrap()).unwrap()
    };
    let mut cluster = read("cluster.yml");
    for node in cluster["nodes"].as_sequence_mut().unwrap() {
        let deploy = node.as_mapping_mut().unwrap().remove("deploy").unwrap();
        assert!(deploy["machine"].is_string(), "{deploy:?}");
    }
    assert_eq!(cluster, read("infer.yml"));
}
