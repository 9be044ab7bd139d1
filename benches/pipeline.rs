//! Compares the dataflow with the same work in one process, alternating: `cargo bench --bench pipeline -- --help`.
//!
//! Both segment the same volumes with the same model, precision and total number of threads, and write the same
//! label maps, figures and report. Their label maps are compared. Each run is a new process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use eyre::{Result, WrapErr, bail, ensure, eyre};
use ndarray::ArrayView4;
use self_prompt_sam::message::control::CaseOpen;
use self_prompt_sam::network::segmenter::Segmenter;
use self_prompt_sam::report::{CasePart, Results};
use self_prompt_sam::runtime::{Settings, compute, exit_code, loader::Loader, prepare};
use self_prompt_sam::volume::{self, IgnoreValues, LabelAssembler};
use serde::{Deserialize, Serialize};
use tch::Tensor;

mod dora;

use dora::{Machine, Spread};

/// Minimum agreement on the voxels that either labels as foreground. Both compute the same, but values sent with 16
/// bits differ in the last bit.
const AGREEMENT: f64 = 0.99;

#[derive(Parser)]
#[command(about = "Times the dataflow against the same work in one process")]
struct Args {
    /// Volume, folder of volumes or dataset folder
    #[arg(long, required_unless_present = "in_process")]
    input: Option<PathBuf>,
    /// Label file or folder, from which oracle.yml makes prompts
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Model bundle; plain LiteMedSAM if not given
    #[arg(long)]
    model: Option<PathBuf>,
    /// Dataflow; the default is dataflows/oracle.yml, or infer.yml for a model without labels
    #[arg(long)]
    dataflow: Option<PathBuf>,
    /// Number of volumes, from the first of the input
    #[arg(long, default_value_t = 10)]
    cases: usize,
    /// Number of runs of each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads of the process, and of each node; 0 = one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// auto, fp32, bf16 or fp16
    #[arg(long, default_value = "auto")]
    precision: String,
    /// Windows in flight
    #[arg(long, default_value_t = 3)]
    window: usize,
    /// File for the figures as JSON; stdout if not given
    #[arg(long)]
    json: Option<PathBuf>,
    /// Run in one process with settings from the environment (set by the bench itself)
    #[arg(long, hide = true)]
    in_process: bool,
    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// Times of a run in one process, seconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct InProcess {
    /// Loading the model.
    load: f64,
    /// From listing the cases to the last label map.
    labels: f64,
    /// Metrics, pictures and report.
    figures: f64,
    /// Slices processed by the network.
    slices: usize,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    /// From the loader's start to the last result, seconds.
    dataflow: f64,
    /// `dora run` as a whole, seconds.
    dataflow_with_start_up: f64,
    /// One process without start and loading of the model, seconds.
    in_process: f64,
    /// The same without metrics and report.
    in_process_label_maps_only: f64,
    /// The whole process, seconds.
    in_process_with_start_up: f64,
    /// Share of foreground voxels on which both agree.
    agreement: f64,
}

#[derive(Serialize)]
struct Figures {
    machine: Machine,
    cases: usize,
    slices: usize,
    threads: usize,
    precision: String,
    rounds: Vec<Round>,
    /// Time of the dataflow / time of one process, for the same work.
    ratio: Spread,
    /// The same, but the process writes no metrics and no report.
    ratio_to_label_maps_only: Spread,
    /// `dora run` / one process, both with start-up.
    ratio_with_start_up: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    exit_code(|| if args.in_process { in_process() } else { compare(&args) })
}

fn compare(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let input = args.input.as_deref().ok_or_else(|| eyre!("--input is missing"))?;
    let list = folder.path().join("cases.txt");
    let absolute = |path: &Path| std::path::absolute(path).map(|path| path.display().to_string());
    let cases = volume::discover(input, args.labels.as_deref(), 1)?;
    ensure!(cases.len() >= args.cases, "{}: {} cases, not {}", input.display(), cases.len(), args.cases);
    let images: Vec<String> =
        cases.iter().take(args.cases).map(|case| absolute(&case.images[0])).collect::<Result<_, _>>()?;
    fs::write(&list, images.join("\n"))?;
    let dataflow = match &args.dataflow {
        Some(path) => path.clone(),
        None if args.model.is_some() && args.labels.is_none() => dora::project().join("dataflows/infer.yml"),
        None => dora::project().join("dataflows/oracle.yml"),
    };
    let optional = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
    let settings = |output: &Path| -> Result<Vec<(&str, String)>> {
        Ok(vec![
            ("SPSAM_INPUT", list.display().to_string()),
            ("SPSAM_LABELS", optional(&args.labels)?.unwrap_or_default()),
            ("SPSAM_MODEL", optional(&args.model)?.unwrap_or_default()),
            ("SPSAM_OUTPUT", output.display().to_string()),
            ("SPSAM_PRECISION", args.precision.clone()),
            ("SPSAM_THREADS", args.threads.to_string()),
            ("SPSAM_WINDOW", args.window.to_string()),
        ])
    };
    let from_labels = if args.labels.is_some() { "labels" } else { "" };
    let mut rounds = Vec::new();
    let mut slices = 0;
    println!(
        "round   dataflow  in process   ratio | with start-up: dataflow  in process   ratio | agreement"
    );
    for round in 1..=args.rounds {
        let [flow, alone] = ["dataflow", "alone"].map(|name| folder.path().join(format!("{name}-{round}")));
        let mut command = Command::new(std::env::current_exe()?);
        let command = command.arg("--in-process").envs(settings(&alone)?);
        // Which of the two goes first alternates, so that a machine that warms up or is shared favours neither.
        let run_alone = |command: &mut Command| dora::run(command.env("SPSAM_PROMPT_SOURCE", from_labels));
        let (flow_seconds, (alone_seconds, said)) = if round % 2 == 1 {
            let seconds = dora::run_dataflow(&dataflow, &settings(&flow)?)?;
            (seconds, run_alone(command)?)
        } else {
            let alone = run_alone(command)?;
            (dora::run_dataflow(&dataflow, &settings(&flow)?)?, alone)
        };
        let said = said.lines().last().unwrap_or_default();
        let alone_timings: InProcess = serde_json::from_str(said).wrap_err("what the process says")?;
        let summary: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(flow.join("summary.json"))?)?;
        let steady = summary["timings"]["seconds_total"].as_f64().ok_or_else(|| eyre!("seconds_total"))?;
        slices = alone_timings.slices;
        let round_figures = Round {
            dataflow: steady,
            dataflow_with_start_up: flow_seconds,
            in_process: alone_timings.labels + alone_timings.figures,
            in_process_label_maps_only: alone_timings.labels,
            in_process_with_start_up: alone_seconds,
            agreement: agreement(&flow, &alone)?,
        };
        print_round(round, &round_figures);
        rounds.push(round_figures);
    }
    let ratio = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let figures = Figures {
        machine: Machine::this(),
        cases: args.cases,
        slices,
        threads: args.threads,
        precision: args.precision.clone(),
        ratio: ratio(|round| round.dataflow / round.in_process),
        ratio_to_label_maps_only: ratio(|round| round.dataflow / round.in_process_label_maps_only),
        ratio_with_start_up: ratio(|round| round.dataflow_with_start_up / round.in_process_with_start_up),
        rounds: rounds.clone(),
    };
    println!("\n{} volumes, {slices} slices; median (least to most)", args.cases);
    println!("dataflow / in process                      {}", figures.ratio);
    println!("dataflow / in process, label maps only     {}", figures.ratio_to_label_maps_only);
    println!("dora run / process, start-up included      {}", figures.ratio_with_start_up);
    dora::write_json(&figures, args.json.as_deref())?;
    match rounds.iter().find(|round| round.agreement < AGREEMENT) {
        Some(round) => bail!("label maps agree on {:.4} of the foreground only", round.agreement),
        None => Ok(()),
    }
}

fn print_round(round: usize, figures: &Round) {
    let Round { dataflow, in_process, dataflow_with_start_up, in_process_with_start_up, .. } = figures;
    println!(
        "{round:>5} {dataflow:>8.2} s {in_process:>9.2} s {:>7.3} | {dataflow_with_start_up:>23.2} s {in_process_with_start_up:>9.2} s {:>7.3} | {:.6}",
        dataflow / in_process,
        dataflow_with_start_up / in_process_with_start_up,
        figures.agreement
    );
}

/// Of the voxels that are foreground in the label maps of either folder, the fraction with the same label in both.
fn agreement(one: &Path, other: &Path) -> Result<f64> {
    let (mut equal, mut foreground) = (0usize, 0usize);
    for entry in fs::read_dir(one)? {
        let path = entry?.path();
        let name = path.file_name().ok_or_else(|| eyre!("{}", path.display()))?;
        if !name.to_string_lossy().ends_with(".nii.gz") {
            continue;
        }
        let (ours, _) = volume::read_labels(&path)?;
        let (theirs, _) = volume::read_labels(&other.join(name))?;
        ensure!(ours.dim() == theirs.dim(), "{}: shapes differ", path.display());
        for (a, b) in ours.iter().zip(&theirs).filter(|&(&a, &b)| a > 0 || b > 0) {
            foreground += 1;
            equal += usize::from(a == b);
        }
    }
    ensure!(foreground > 0, "{}: nothing was segmented", one.display());
    Ok(equal as f64 / foreground as f64)
}

/// One run in this process: the work of the nodes, one after the other.
fn in_process() -> Result<()> {
    prepare()?;
    let settings = Settings::from_env()?;
    let clock = Instant::now();
    let bundle = settings.bundle()?;
    let segmenter = Segmenter::load(&bundle, compute()?)?;
    let load = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let output = settings.output.clone();
    let by_labels =
        settings.labels.is_some() && std::env::var("SPSAM_PROMPT_SOURCE").is_ok_and(|s| s == "labels");
    let mut results = Results::new(
        &output.join("figures"),
        CasePart::WHOLE,
        &bundle,
        "in process".into(),
        IgnoreValues::default(),
    )?;
    let loader = Loader::new(settings, &bundle)?;
    let (mut figures, mut slices) = (0.0, 0);
    for (index, files) in loader.cases().iter().enumerate() {
        let (plan, prepared) = loader.prepare(index)?;
        let mut assembler = LabelAssembler::new(&plan, loader.classes().len());
        for window in 0..plan.windows().len() {
            let voxels = prepared.window(window).permuted_axes([1, 0, 2, 3]); // [D, M, H, W]
            let shape = voxels.shape().iter().map(|&size| size as i64).collect::<Vec<_>>();
            let voxels = voxels.as_standard_layout();
            let values = voxels.as_slice().ok_or_else(|| eyre!("window {window} is not contiguous"))?;
            let labels = by_labels.then(|| prepared.label_window(window)).flatten();
            let labels = labels.as_ref().map(|labels| (labels.view(), loader.classes().len()));
            let input = Tensor::from_slice(values).view(&shape[..]);
            let logits = segmenter.segment(&input, plan.covered(window), labels)?;
            slices += logits.size()[0] as usize;
            push(&mut assembler, window, &logits)?;
        }
        let labels = assembler.finish();
        let writing = Instant::now();
        volume::write_labels(
            &output.join(format!("{}.nii.gz", files.case_id)),
            &labels,
            &files.images[0],
            loader.classes(),
        )?;
        let writing = writing.elapsed().as_secs_f64();
        let open = CaseOpen {
            search: false,
            session_id: String::new(),
            first_segment: 0,
            index,
            cases: loader.cases().len(),
            classes: loader.classes().clone(),
            started_unix_ms: 0,
            commanded_unix_ms: None,
            plan,
            live: None,
        };
        let clock = Instant::now();
        results.add_case(&open, &labels, slices)?;
        figures += clock.elapsed().as_secs_f64() - writing; // includes writing the label map
    }
    let finish = Instant::now();
    results.finish()?;
    figures += finish.elapsed().as_secs_f64();
    let labels = clock.elapsed().as_secs_f64() - figures;
    println!("{}", serde_json::to_string(&InProcess { load, labels, figures, slices })?);
    Ok(())
}

fn push(assembler: &mut LabelAssembler, window: usize, logits: &Tensor) -> Result<()> {
    let [depth, classes, height, width] = logits.size()[..] else { bail!("logits {:?}", logits.size()) };
    let shape = [depth, classes, height, width].map(|size| size as usize);
    let values = Vec::<f32>::try_from(logits.contiguous().view(-1))?;
    let by_slice = ArrayView4::from_shape(shape, &values)?;
    assembler.push(window, by_slice.permuted_axes([1, 0, 2, 3]))?;
    Ok(())
}
