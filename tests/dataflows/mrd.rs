//! Scanners that stream by MRD, played by the reference library: their masks come back on the same connection.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Output};

use self_prompt_sam::runtime::{SharedMemory, transport_overlay};

use super::harness::{Bench, Run, project, python};
use super::send::{free_address, labels, offline, said, spsam};
use super::skip::skipped;

const SLICES: usize = 6;
const NOT_INSTALLED: i32 = 77;

/// `spsam stream` with an MRD server only, until one series is written.
fn stream(bench: &Bench, output: &str, address: &str) -> Run {
    let mut command = spsam();
    command.args(["stream", "--listen", "off", "--view", "off", "--mrd", address, "--series", "1"]);
    command.arg("--model").arg(bench.path("bundle")).arg("--output").arg(bench.path(output));
    let mut run = bench.launch(command, output, &[]);
    wait_for_port(&mut run, address);
    run
}

fn wait_for_port(run: &mut Run, address: &str) {
    run.wait_until("the MRD server", |_| TcpStream::connect(address).is_ok()); // a probe each
}

/// Runs the client. `None` if the reference library is not installed.
fn client(arguments: &[&str]) -> Option<Output> {
    let output = Command::new(python())
        .arg(project().join("tests/python/mrd_client.py"))
        .args(arguments)
        .output()
        .unwrap();
    (output.status.code() != Some(NOT_INSTALLED)).then_some(output)
}

/// Sends a volume and checks what comes back against the label map of the live run. False if the client is not installed.
fn segment(bench: &Bench, output: &str, how: &[&str], during: impl FnOnce(&mut Run)) -> bool {
    let address = free_address();
    let (_, port) = address.rsplit_once(':').unwrap();
    let mut run = stream(bench, output, &address);
    let (image, masks) = (bench.path("images/case_0.nii.gz"), bench.path(&format!("{output}.npz")));
    let [image, masks] = [&image, &masks].map(|path| path.to_str().unwrap());
    let arguments = [&["send", port, image, masks][..], how].concat();
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| client(&arguments));
        during(&mut run);
        sender.join().unwrap()
    });
    let Some(sent) = sent else { return false };
    assert!(sent.status.success(), "{}; log:\n{}", said(&sent), run.log());
    assert!(run.finish().success(), "{}", run.log());
    let checked = client(&["check", image, masks, bench.path(output).to_str().unwrap()]).unwrap();
    assert!(checked.status.success(), "{how:?}: {}", said(&checked));
    assert!(!run.log().contains("Secret") && !run.log().contains(" lost on "), "{}", run.log());
    true
}

#[test]
fn masks_come_back_and_are_those_of_an_offline_run() {
    let bench = Bench::new(1, SLICES);
    // With limits in the header, so that the series is complete before its client says so; and without.
    for (output, how) in [
        ("slices", &["--rate", "5"][..]),
        ("volume", &["--kind", "volume", "--dummy"]),
        ("float", &["--kind", "float", "--rate", "50", "--dummy"]),
    ] {
        if !segment(&bench, output, how, |_| {}) {
            return skipped("needs the Python package ismrmrd");
        }
    }
    let expected = offline(&bench);
    assert!(expected[0].iter().any(|&label| label != 0), "nothing to compare");
    for output in ["slices", "volume", "float"] {
        assert!(labels(&bench.path(output)) == expected, "{output}: not the labels of an offline run");
    }
}

/// Clients that break the protocol come first, and a node dies while images arrive.
#[test]
fn hostile_clients_and_dying_nodes_change_nothing() {
    let bench = Bench::new(1, SLICES);
    for program in ["spsam-volume-loader", "spsam-metrics-writer"] {
        let first = format!("{program}.npz");
        let during = |run: &mut Run| {
            run.wait_until("the first image", |_| {
                let files = fs::read_dir(bench.path(program).join(".spool")).into_iter().flatten();
                files.flatten().any(|file| file.path().join("series.json").exists())
            });
            run.kill(program);
            assert!(!bench.path(&first).exists(), "{program} died too late");
        };
        if !segment(&bench, program, &["--rate", "3"], during) {
            return skipped("needs the Python package ismrmrd");
        }
    }
    let address = free_address();
    let mut run = stream(&bench, "hostile", &address);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xf2, 3, 1, 2, 3],
        &[3, 0, 0xff, 0xff, 0xff, 0xff, b'<'],
        &[0xfe, 3, 1, 0, 1, 0, 0, 0],
    ] {
        let mut client = TcpStream::connect(&address).unwrap();
        client.write_all(bytes).unwrap();
    }
    run.wait_until("a line for each", |log| log.matches(": ended: ").count() == 4);
    let image = bench.path("images/case_0.nii.gz");
    let masks = bench.path("hostile.npz");
    let (_, port) = address.rsplit_once(':').unwrap();
    let sent = client(&["send", port, image.to_str().unwrap(), masks.to_str().unwrap()]).unwrap();
    assert!(sent.status.success(), "{}; log:\n{}", said(&sent), run.log());
    assert!(run.finish().success(), "{}", run.log());
    assert!(labels(&bench.path("hostile")) == offline(&bench));
}

const AT_ONCE: &str = "
nodes:
  - id: scanner-source
    path: ../target/release/spsam-scanner-source
    inputs:
      frame_ack: { source: receiver/frame_ack, queue_size: 1000, queue_policy: backpressure }
      MASKS
    input_types: { frame_ack: spsam/v1/FrameAck, masks: spsam/v1/Mask }
    outputs: [frames, series]
    output_types: { frames: spsam/v1/Frame, series: spsam/v1/Series }
    finish_grace_secs: 86400
    shared_memory_pool_size: 64MB
  - id: receiver
    path: RECEIVER
    inputs:
      frames: { source: scanner-source/frames, queue_size: 2048, queue_policy: drop_oldest }
      series: { source: scanner-source/series, queue_size: 1000, queue_policy: backpressure }
    input_types: { frames: spsam/v1/Frame, series: spsam/v1/Series }
    outputs: [frame_ack, masks]
    output_types: { frame_ack: spsam/v1/FrameAck, masks: spsam/v1/Mask }
    finish_grace_secs: 86400
    shared_memory_pool_size: 64MB
";

/// The writer sends the masks of a long series all at once: none is lost on the edge that `stream.yml` has.
#[test]
fn masks_that_come_at_once_all_arrive() {
    const IMAGES: usize = 3000;
    let bench = Bench::new(1, IMAGES);
    let stream = fs::read_to_string(project().join("dataflows/stream.yml")).unwrap();
    let edges: Vec<&str> = stream.lines().filter(|line| line.contains("masks: { source:")).collect();
    let edge = edges[0].trim().replace("metrics-writer", "receiver");
    let receiver = project().join("tests/python/masks_at_once.py").display().to_string();
    let flow = bench.path("flow");
    fs::create_dir_all(flow.join("types/spsam")).unwrap();
    let types = "types/spsam/v1.yml";
    fs::copy(project().join("dataflows").join(types), flow.join(types)).unwrap();
    let text = AT_ONCE
        .replace("../target/", &format!("{}/", project().join("target").display()))
        .replace("MASKS", &edge)
        .replace("RECEIVER", &receiver);
    fs::write(flow.join("flow.yml"), text).unwrap();
    // Nodes of the project change the transport for themselves; a node in Python is told to.
    let overlay = bench.path("overlay.json5");
    fs::write(&overlay, transport_overlay(SharedMemory::Share(1.0))).unwrap();
    let address = free_address();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", python().parent().unwrap().display());
    let settings = [
        ("SPSAM_LISTEN", "off"),
        ("SPSAM_MRD", &*address),
        ("DORA_ZENOH_CONFIG_OVERLAY", overlay.to_str().unwrap()),
        ("PATH", &*path),
    ];
    let mut run = bench.start(&flow.join("flow.yml"), "live", &settings);
    wait_for_port(&mut run, &address);
    let image = bench.path("images/case_0.nii.gz");
    let sent = spsam().arg("send").arg(&image).args(["--mrd", &address, "--rate", "0"]).output().unwrap();
    assert!(sent.status.success(), "{}; log:\n{}", said(&sent), run.log());
    let expected = format!("sent {IMAGES} images of 1 series; {IMAGES} masks came back");
    assert!(said(&sent).contains(&expected), "{}", said(&sent));
}
