//! The live demo: the MNI152 head arrives slice by slice, as from a scanner, and its hippocampi are segmented meanwhile.

use eyre::{WrapErr, bail, eyre};
use serde_json::Value;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use crate::asset::SAMPLE;
use crate::demo::{self, DemoArgs, MODEL, REGIONS, files_since};
use crate::process;
use crate::project::Project;

/// How long the receivers may take to start, seconds.
const START_SECS: &str = "120";

/// A hippocampus: a dataflow with a receiver, for its region of the head.
struct Side {
    name: &'static str,
    folder: PathBuf,
    port: u16,
    stream: Running,
}

/// A program that ends with this one, and the file with what it says.
struct Running {
    child: Child,
    said: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// Sets up, builds, sends the head, and prints how long the masks took and the volumes.
///
/// # Errors
/// If a step fails; the message has what the program said.
pub fn demo(project: &Project, args: &DemoArgs) -> eyre::Result<()> {
    demo::prepare(project)?;
    let rate = args.rate;
    let output = project.root().join(args.output.as_deref().unwrap_or("output/demo-live".as_ref()));
    let started = SystemTime::now();
    let regions = REGIONS.split(';').filter_map(|region| region.split_once('='));
    let mut sides = Vec::new();
    for (name, region) in regions {
        let is_first = sides.is_empty();
        sides.push(start(project, &output, name, region, is_first)?);
    }
    eprintln!("[demo] the head arrives at {rate} slices a second");
    // One sender for each receiver, of which the last shows its progress.
    let mut senders = Vec::new();
    for (index, side) in sides.iter().enumerate() {
        let is_shown = index + 1 == sides.len();
        senders.push(send(project, side, rate, is_shown)?);
    }
    for (sender, side) in senders.iter_mut().zip(&sides) {
        let fine = sender.child.wait()?.success();
        if !fine {
            bail!("sending the head: {}{}", said(sender), said(&side.stream));
        }
    }
    for side in &mut sides {
        let status = side.stream.child.wait()?;
        if !status.success() {
            bail!("the {} hippocampus: {}", side.name, said(&side.stream));
        }
    }
    println!("\nFrom the last byte of a slice to its mask, seconds (of {rate} slices a second):\n");
    println!("{:<24} {:>6} {:>7} {:>7} {:>8}", "", "slices", "median", "95 %", "slowest");
    sides.iter().try_for_each(print_times)?;
    println!();
    sides.iter().try_for_each(|side| print_volumes(project, side, started))?;
    println!("\nPictures and label maps are in {}", project.shown(&output));
    Ok(())
}

fn spsam(project: &Project) -> Command {
    let mut command = Command::new(project.root().join("target/release/spsam"));
    command.current_dir(project.root()).stdin(Stdio::null());
    command
}

/// Only one of several has the address of the page.
fn start(
    project: &Project,
    output: &Path,
    name: &'static str,
    region: &'static str,
    has_page: bool,
) -> eyre::Result<Side> {
    let folder = output.join(name);
    // What an interrupted demo has left would count as the series to wait for.
    match fs::remove_dir_all(folder.join(".spool")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).wrap_err_with(|| folder.join(".spool").display().to_string());
        }
        _ => fs::create_dir_all(&folder).wrap_err_with(|| folder.display().to_string())?,
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
    let mut command = spsam(project);
    command
        .args(["stream", "--series", "1", "--model", MODEL, "--roi", region])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--output"])
        .arg(&folder);
    if !has_page {
        command.env("SPSAM_VIEW", "off");
    }
    let said = folder.join("stream.log");
    let stream = running(command, said)?;
    Ok(Side { name, folder, port, stream })
}

fn send(project: &Project, side: &Side, rate: f64, is_shown: bool) -> eyre::Result<Running> {
    let mut command = spsam(project);
    command.arg("send").arg(SAMPLE.path(project)).args(["--to", &format!("127.0.0.1:{}", side.port)]);
    command.args(["--rate", &rate.to_string(), "--wait", START_SECS]);
    let said = side.folder.join("send.log");
    if is_shown {
        let child = command.spawn().wrap_err_with(|| process::line(&command))?;
        return Ok(Running { child, said });
    }
    running(command, said)
}

/// Starts a program that says everything to a file.
fn running(mut command: Command, said: PathBuf) -> eyre::Result<Running> {
    let log = File::create(&said).wrap_err_with(|| said.display().to_string())?;
    command.stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().wrap_err_with(|| process::line(&command))?;
    Ok(Running { child, said })
}

fn said(program: &Running) -> String {
    fs::read_to_string(&program.said).unwrap_or_default()
}

/// The figures of the run's summary.json.
fn print_times(side: &Side) -> eyre::Result<()> {
    let path = side.folder.join("summary.json");
    let read = || -> eyre::Result<Value> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
    let summary = read().wrap_err_with(|| path.display().to_string())?;
    for (kind, meaning) in [("provisional", "while it arrives"), ("complete", "complete")] {
        let figures = &summary["live"][kind];
        let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
        let images = figures["images"].as_u64().unwrap_or(0);
        let (p50, p95, max) = (number("p50"), number("p95"), number("max"));
        let what = format!("{}, {meaning}", side.name);
        println!("{what:<24} {images:>6} {p50:>7.2} {p95:>7.2} {max:>8.2}");
    }
    Ok(())
}

/// What `spsam inspect` says about the label map: the volumes of its classes.
fn print_volumes(project: &Project, side: &Side, started: SystemTime) -> eyre::Result<()> {
    let mut written = Vec::new();
    files_since(&side.folder, started, &mut written)?;
    let is_label_map =
        |path: &&PathBuf| path.parent() == Some(&side.folder) && path.to_string_lossy().ends_with(".nii.gz");
    let label_map = written.iter().map(|(path, _)| path).find(is_label_map);
    let label_map = label_map.ok_or_else(|| eyre!("{}: no label map", side.folder.display()))?;
    let about = process::capture(spsam(project).arg("inspect").arg(label_map))?;
    let volumes: Vec<&str> = about.lines().filter(|line| line.ends_with(" ml")).map(str::trim).collect();
    println!("{:<6} {}", side.name, volumes.join(", "));
    Ok(())
}
