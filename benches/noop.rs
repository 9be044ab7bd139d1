//! The cost of passing a slice through stages that do nothing: `cargo bench --bench noop -- --help`.
//!
//! The bench writes a dataflow whose nodes are this same program: a source, stages that join each window and send it
//! on, and a stage that acknowledges it. They use the same code as our own nodes to receive, join and send.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use dora_node_api::DoraArray;
use dora_node_api::dora_core::config::DataId;
use eyre::{Result, eyre};
use self_prompt_sam::compute::Compute;
use self_prompt_sam::message::{SliceHeader, WireKind, encode_tensor, encode_text};
use self_prompt_sam::runtime::{Emit, Input, InputKind, Stage, Window, exit_code, node_main, run_stage};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

mod dora;
#[path = "dora/timed.rs"]
mod timed;

use dora::{Machine, Spread};
use timed::Counts;

const IN: Input = Input { name: "in", kind: InputKind::Floats };
/// Windows before timing starts.
const WARM_UP: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Source,
    Pass,
    Ack,
}

#[derive(Parser)]
#[command(about = "Times slices through stages that only pass them on")]
struct Args {
    /// Number of stages between source and end
    #[arg(long, default_value_t = 3)]
    stages: usize,
    /// Shape of a slice; the default is LiteMedSAM's embedding
    #[arg(long, value_delimiter = ',', default_values_t = [256, 64, 64])]
    shape: Vec<i64>,
    /// Number of slices in a window
    #[arg(long, default_value_t = 8)]
    depth: i64,
    /// Number of timed windows
    #[arg(long, default_value_t = 100)]
    windows: usize,
    /// Number of windows in flight; 1 measures the latency of a window
    #[arg(long, default_value_t = 3)]
    credits: usize,
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
    stages: usize,
    shape: Vec<i64>,
    depth: i64,
    credits: usize,
    /// Milliseconds per slice, with `credits` windows in flight.
    slice_ms: Spread,
    /// Milliseconds per slice and hop (from one node to the next).
    hop_ms: Spread,
    /// Milliseconds from source to acknowledgement for a single window in flight.
    window_alone_ms: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.role {
        None => exit_code(|| measure(&args)),
        Some(Role::Source) => node_main(|| send_all(&args)),
        Some(Role::Pass) => node_main(|| run_stage(Pass)),
        Some(Role::Ack) => node_main(|| run_stage(Acknowledge)),
    }
}

/// Sends each window on unchanged.
struct Pass;

impl Stage for Pass {
    fn inputs(&self) -> &'static [Input] {
        &[IN]
    }

    fn network(&self) -> Option<Compute> {
        None
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        emit.slices("out", &window.header, &window.tensor(IN.name, 0), WireKind::Float16, None);
        Ok(())
    }
}

/// Tells the source that a window has arrived.
struct Acknowledge;

impl Stage for Acknowledge {
    fn inputs(&self) -> &'static [Input] {
        &[IN]
    }

    fn network(&self) -> Option<Compute> {
        None
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        emit.array("ack", window.header.at(0, vec![1]), encode_text("ack"));
        Ok(())
    }
}

fn measure(args: &Args) -> Result<()> {
    let slices = args.windows as f64 * args.depth as f64;
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    println!("round   ms a slice   ms a window alone");
    for round in 1..=args.rounds {
        together.push(run(args, args.credits)? * 1e3 / slices);
        alone.push(run(args, 1)? * 1e3 / args.windows as f64);
        println!("{round:>5} {:>12.3} {:>19.2}", together[round - 1], alone[round - 1]);
    }
    let hops = (args.stages + 1) as f64;
    let hop_ms = Spread::of(together.iter().map(|ms| ms / hops));
    let (slice_ms, window_alone_ms) = (Spread::of(together), Spread::of(alone));
    let Args { stages, shape, depth, credits, .. } = args;
    println!("\n{stages} stages, windows of {depth} slices {shape:?} in Float16, median (least to most)");
    println!("ms a slice, {credits} windows in flight   {slice_ms}");
    println!("ms a slice and hop               {hop_ms}");
    println!("ms a window alone on its way     {window_alone_ms}");
    let (machine, shape) = (Machine::this(), shape.clone());
    let (stages, depth, credits) = (*stages, *depth, *credits);
    let figures = Figures { machine, stages, shape, depth, credits, slice_ms, hop_ms, window_alone_ms };
    dora::write_json(&figures, args.json.as_deref())
}

/// One run of the dataflow: seconds for the timed windows.
fn run(args: &Args, credits: usize) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let (flow, report) = (folder.path().join("flow.yml"), folder.path().join("sent.json"));
    let program = std::env::current_exe()?.display().to_string();
    let shape: Vec<String> = args.shape.iter().map(i64::to_string).collect();
    let common = format!(
        "--shape {} --depth {} --windows {} --credits {credits}",
        shape.join(","),
        args.depth,
        args.windows
    );
    let window_bytes = args.shape.iter().product::<i64>() * args.depth * 2;
    let pool = (2 * credits as i64 * window_bytes) / 1_000_000 + 16;
    let mut text = format!(
        "nodes:
  - id: source
    path: {program}
    args: --role source --report {} {common}
    inputs:
      ack: {{ source: end/ack, queue_size: 1000, queue_policy: backpressure }}
    outputs: [out]
    shared_memory_pool_size: {pool}MB
    finish_grace_secs: 86400
",
        report.display()
    );
    let mut from = "source".to_owned();
    for stage in 0..=args.stages {
        let (id, role, output) = match stage == args.stages {
            true => ("end".to_owned(), "ack", "ack"),
            false => (format!("pass-{stage}"), "pass", "out"),
        };
        write!(
            text,
            "  - id: {id}
    path: {program}
    args: --role {role} {common}
    inputs:
      in: {{ source: {from}/out, queue_size: 2048, queue_policy: drop_oldest }}
    outputs: [{output}]
    shared_memory_pool_size: {pool}MB
    finish_grace_secs: 86400
"
        )?;
        from = id;
    }
    fs::write(&flow, text)?;
    dora::run_dataflow(&flow, &[])?;
    timed::seconds(&report)
}

fn send_all(args: &Args) -> Result<()> {
    let slice = Tensor::rand(&args.shape[..], (Kind::Half, Device::Cpu));
    let output = DataId::from("out".to_owned());
    let counts = Counts { warm_up: WARM_UP, timed: args.windows, in_flight: args.credits };
    timed::send_all(args.report.as_deref(), counts, |node, window| {
        let header = SliceHeader {
            session_id: "bench".into(),
            segment_id: i64::try_from(window)?,
            attempt: 0,
            seq: 0,
            count: args.depth,
            case_id: "case".into(),
            classes: 2,
            level: None,
            slices: None,
            image_size: None,
            covered: None,
            times: Default::default(),
            shape: Vec::new(),
        };
        for seq in 0..args.depth {
            let parameters = header.at(seq, args.shape.clone()).to_parameters();
            let array = DoraArray::from(encode_tensor(&slice, WireKind::Float16));
            node.send_output(output.clone(), parameters, array).map_err(|error| eyre!("{error}"))?;
        }
        Ok(())
    })
}
