//! Compares the transport of slices between two nodes over dora with a memory copy on this machine: `cargo bench
//! --bench transport -- --help`.
//!
//! The bench writes a dataflow whose nodes are this same program. The source sends as our nodes do (transport
//! overlay, shared memory, a bounded number in flight). The sink only reads a value of each message, or copies it
//! into a window as the assembler does.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use dora_node_api::dora_core::config::DataId;
use dora_node_api::{DoraArray, DoraNode, Event, MetadataParameters};
use eyre::{Result, ensure, eyre};
use self_prompt_sam::message::{WireKind, copy_slices, encode_tensor, encode_text, view_tensor};
use self_prompt_sam::runtime::{exit_code, node_main};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

mod dora;
#[path = "dora/timed.rs"]
mod timed;

use dora::{Machine, Spread};
use timed::Counts;

/// Messages before timing starts, enough to touch every page of the shared memory.
const WARM_UP: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Source,
    LendingSink,
    CopyingSink,
}

#[derive(Parser)]
#[command(about = "Times messages between two nodes against a memory copy")]
struct Args {
    /// Size of a message, MiB
    #[arg(long, default_value_t = 8)]
    mib: usize,
    /// Number of timed messages
    #[arg(long, default_value_t = 300)]
    messages: usize,
    /// Messages in flight
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Number of runs of each kind
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// File for the figures as JSON; stdout if not given
    #[arg(long)]
    json: Option<PathBuf>,
    /// Role of this program in the dataflow (set by the bench itself)
    #[arg(long, hide = true, value_enum)]
    role: Option<Role>,
    /// File to which the source writes its time
    #[arg(long, hide = true)]
    report: Option<PathBuf>,
    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figures {
    machine: Machine,
    mib: usize,
    in_flight: usize,
    /// GB/s (10⁹ bytes per second) if the receiver only reads a value.
    lent: Spread,
    /// GB/s if the receiver copies the message.
    copied: Spread,
    /// GB/s of a copy between two places in memory, on one core.
    memory_copy: Spread,
    /// `copied` over `memory_copy`, medians.
    share_of_memory_copy: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.role {
        None => exit_code(|| measure(&args)),
        Some(Role::Source) => node_main(|| send_all(&args)),
        Some(role) => node_main(|| receive_all(&args, role == Role::CopyingSink)),
    }
}

fn measure(args: &Args) -> Result<()> {
    let gigabytes = (args.messages * args.mib) as f64 * f64::from(1 << 20) / 1e9;
    let (mut lent, mut copied, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    println!("round       lent     copied  memory copy   GB/s");
    for round in 1..=args.rounds {
        memory.push(memory_copy_rate(args.mib));
        lent.push(gigabytes / run(args, "lending-sink")?);
        copied.push(gigabytes / run(args, "copying-sink")?);
        memory.push(memory_copy_rate(args.mib));
        let memory_copy = Spread::of(memory[memory.len() - 2..].iter().copied()).median;
        println!("{round:>5} {:>10.2} {:>10.2} {memory_copy:>12.2}", lent[round - 1], copied[round - 1]);
    }
    let [lent, copied, memory_copy] = [lent, copied, memory].map(Spread::of);
    let share_of_memory_copy = copied.median / memory_copy.median;
    println!("\n{} MiB messages, {} in flight, GB/s, median (least to most)", args.mib, args.in_flight);
    println!("node to node, looked at     {lent}");
    println!("node to node, copied        {copied}, {:.0}% of the memory copy", share_of_memory_copy * 100.0);
    println!("memory copy, one core       {memory_copy}");
    let (machine, mib, in_flight) = (Machine::this(), args.mib, args.in_flight);
    let figures = Figures { machine, mib, in_flight, lent, copied, memory_copy, share_of_memory_copy };
    dora::write_json(&figures, args.json.as_deref())
}

/// GB/s of copying buffers of `mib` MiB, which no cache can hold.
fn memory_copy_rate(mib: usize) -> f64 {
    const BUFFERS: usize = 32;
    let from = vec![vec![1u8; mib << 20]; BUFFERS];
    let mut to = vec![vec![0u8; mib << 20]; BUFFERS];
    let clock = Instant::now();
    for (from, to) in from.iter().zip(&mut to) {
        to.copy_from_slice(from);
        std::hint::black_box(to);
    }
    (BUFFERS * mib) as f64 * f64::from(1 << 20) / 1e9 / clock.elapsed().as_secs_f64()
}

/// One run of the dataflow: seconds for the timed messages.
fn run(args: &Args, sink: &str) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let (flow, report) = (folder.path().join("flow.yml"), folder.path().join("sent.json"));
    let program = std::env::current_exe()?.display().to_string();
    let Args { mib, messages, in_flight, .. } = args;
    // Room for all messages in flight, and for those that the receiver has not yet released.
    let pool = 2 * in_flight.max(&1) * (mib + 1);
    let common = format!("--mib {mib} --messages {messages} --in-flight {in_flight}");
    let text = format!(
        "nodes:
  - id: source
    path: {program}
    args: --role source --report {} {common}
    inputs:
      ack: {{ source: sink/ack, queue_size: 1000, queue_policy: backpressure }}
    outputs: [data]
    shared_memory_pool_size: {pool}MB
    finish_grace_secs: 86400
  - id: sink
    path: {program}
    args: --role {sink} {common}
    inputs:
      data: {{ source: source/data, queue_size: 2048, queue_policy: drop_oldest }}
    outputs: [ack]
    finish_grace_secs: 86400
",
        report.display()
    );
    fs::write(&flow, text)?;
    dora::run_dataflow(&flow, &[])?;
    timed::seconds(&report)
}

fn values(mib: usize) -> i64 {
    (mib << 20) as i64 / size_of::<f32>() as i64
}

fn send_all(args: &Args) -> Result<()> {
    let tensor = Tensor::rand([values(args.mib)], (Kind::Float, Device::Cpu));
    let output = DataId::from("data".to_owned());
    let counts = Counts { warm_up: WARM_UP, timed: args.messages, in_flight: args.in_flight };
    timed::send_all(args.report.as_deref(), counts, |node, _| {
        let array = DoraArray::from(encode_tensor(&tensor, WireKind::Float32));
        node.send_output(output.clone(), MetadataParameters::new(), array).map_err(|error| eyre!("{error}"))
    })
}

fn receive_all(args: &Args, copies: bool) -> Result<()> {
    let (mut node, mut events) = DoraNode::init_from_env().map_err(|error| eyre!("{error}"))?;
    let shape = [values(args.mib)];
    let windows = args.in_flight as i64;
    let window = Tensor::zeros([windows, shape[0]], (Kind::Float, Device::Cpu));
    let mut received = 0;
    while let Some(event) = events.recv() {
        match event {
            Event::Input { data, .. } => {
                let array = arrow::array::ArrayRef::from(data);
                if copies {
                    let place = received % windows;
                    copy_slices(&array, &shape, &window, place..place + 1)?;
                } else {
                    let last = view_tensor(&array, &shape, |tensor| tensor.double_value(&[shape[0] - 1]))?;
                    ensure!((0.0..=1.0).contains(&last), "a wrong value arrived");
                }
                drop(array);
                received += 1;
                let ack = DoraArray::from(encode_text("ack"));
                node.send_output(DataId::from("ack".to_owned()), MetadataParameters::new(), ack)
                    .map_err(|error| eyre!("{error}"))?;
            }
            Event::Stop(_) => break,
            _ => {}
        }
    }
    Ok(())
}
