//! What every node does before it joins a dataflow.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use eyre::{Report, Result, WrapErr};
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::join::{Leave, node_name, shared_memory, would_fail_again};
use super::notice::{Notice, tell};
use super::said::Said;
use super::settings::number;
use super::shared_memory::SharedMemory;

/// dora's settings of zenoh. Its publisher waits 1 ms for a congested link and then drops the message in silence; this makes it
/// wait for a minute. Read by dora when a process opens its session.
pub fn transport_overlay(memory: SharedMemory) -> String {
    let congestion = "link:{tx:{queue:{congestion_control:{drop:{\
        wait_before_drop:60000000,max_wait_before_drop_fragments:60000000}}}}}";
    match memory {
        SharedMemory::Share(_) => format!("{{transport:{{{congestion}}}}}\n"),
        SharedMemory::Off => format!("{{transport:{{{congestion},shared_memory:{{enabled:false}}}}}}\n"),
    }
}

/// Warnings, without those that every healthy start of dora and zenoh brings, and what we say ourselves.
const LOG: &str = "warn,zenoh::net::runtime=off,dora_node_api=error,self_prompt_sam=info,spsam=info";
const OVERLAY_VARIABLE: &str = "DORA_ZENOH_CONFIG_OVERLAY";

/// Installs the log (stderr, `RUST_LOG`), the number of threads (`SPSAM_THREADS`) and how memory is kept. Call it first in
/// `main`; [`node_main`] does.
///
/// # Errors
/// `SPSAM_THREADS` that is not a number.
pub fn prepare() -> Result<()> {
    keep_memory();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    // A second installation (several nodes in one test process) is harmless.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(false)
        .log_internal_errors(false); // which would go to the same stderr, and panic
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(Said).try_init();
    // libtorch's panics carry a C++ back trace; one line says what happened.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", one_line(&panic.to_string()))));
    set_threads()
}

/// `SPSAM_THREADS` threads for libtorch and for rayon; with 0, each has one a core (libtorch `OMP_NUM_THREADS`, if set).
fn set_threads() -> Result<()> {
    let threads = number("SPSAM_THREADS", 0)?;
    if threads > 0 {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        if env::var_os("RAYON_NUM_THREADS").is_none() {
            // Fails where the pool is running already, which a second call finds.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
    }
    Ok(())
}

/// The threads of libtorch in the thread of a node that computes.
static LIBTORCH_THREADS: OnceLock<i32> = OnceLock::new();

/// Leaves libtorch one thread in the others. GNU's OpenMP keeps threads for every thread that has computed in parallel, and
/// as soon as those are more than the cores, idle ones sleep at once, which the many small operations of a network pay for.
fn compute_elsewhere() {
    LIBTORCH_THREADS.get_or_init(tch::get_num_threads);
    tch::set_num_threads(1);
}

/// Gives libtorch its threads; for the thread of a node that computes.
pub(super) fn compute_here() {
    tch::set_num_threads(*LIBTORCH_THREADS.get_or_init(tch::get_num_threads));
}

/// The threads that [`compute_here`] gives.
pub(super) fn compute_threads() -> usize {
    usize::try_from(*LIBTORCH_THREADS.get_or_init(tch::get_num_threads)).unwrap_or(1)
}

/// Keeps memory that libtorch lets go of for its next tensor. glibc gives blocks of megabytes back to the system, which
/// clears each page again when the next tensor of that size touches it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_memory() {
    const UP_TO: libc::c_int = 1 << 30;
    const STEP: libc::c_int = 64 << 20;
    // SAFETY: only parameters of the allocator are set. Arenas other than the first hold no large blocks, so there is one.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, UP_TO);
        libc::mallopt(libc::M_TRIM_THRESHOLD, UP_TO);
        libc::mallopt(libc::M_TOP_PAD, STEP);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory() {}

/// Has the kernel end this process with `dora run`, until it joins the dataflow; then dora's own library sees to it.
fn end_with_dora() -> Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    let Some(dora) = env::var("DORA_RUN_PARENT_PID").ok().and_then(|text| text.parse().ok()) else {
        return Ok(());
    };
    // A wrapper may stand between, and then this is of no use.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) == Some(dora) {
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    Ok(())
}

fn install_overlay() -> Result<()> {
    if env::var_os(OVERLAY_VARIABLE).is_some() {
        return Ok(());
    }
    // A file in memory: nothing to clean up, and no folder that must be writable.
    let memory = shared_memory().unwrap_or(SharedMemory::Share(1.0));
    let file = rustix::fs::memfd_create("spsam-transport", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.wrap_err("a file in memory for dora's transport settings")?);
    file.write_all(transport_overlay(memory).as_bytes())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::mem::forget(file);
    // SAFETY: called at the start of main, before any other thread exists.
    unsafe { env::set_var(OVERLAY_VARIABLE, &path) };
    Ok(())
}

/// Runs a node: installs the transport overlay, [`prepare`]s, and logs the most memory it has used. An error becomes one line
/// on stderr, a notice for the command that started the dataflow, and exit code 1.
///
/// Code 0 where dora would start the node again and that cannot help: it has failed by its settings or files. dora then ends
/// the dataflow as failed at once, as the node has not joined it.
pub fn node_main(main: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = end_with_dora().and_then(|()| install_overlay()).and_then(|()| prepare()).and_then(|()| {
        compute_elsewhere();
        let outcome = main();
        if let Some(megabytes) = peak_memory_mb() {
            tracing::info!("peak memory {megabytes} MB");
        }
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_why(&error);
            if would_fail_again() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// Several things that have failed.
#[derive(Debug, Error)]
#[error("{}", .0.join("; "))]
pub struct Failures(pub Vec<String>);

/// Runs a program that is no node; an error becomes one line on stderr, or a line each for [`Failures`], and exit code 1.
pub fn exit_code(main: impl FnOnce() -> Result<()>) -> ExitCode {
    let Err(error) = main() else { return ExitCode::SUCCESS };
    let lines = match error.downcast_ref::<Failures>() {
        Some(Failures(lines)) => lines.clone(),
        None => vec![format!("{error:#}")],
    };
    for line in lines {
        // The terminal may be what has gone.
        let _ = writeln!(std::io::stderr(), "error: {}", one_line(&line));
    }
    ExitCode::FAILURE
}

/// Logs why a node has ended, and tells the command. What another node has caused is no error of this one.
fn say_why(error: &Report) {
    let text = one_line(&format!("{error:#}"));
    let node = node_name();
    match error.downcast_ref::<Leave>() {
        Some(Leave::EndedEarly(_)) => {
            tracing::info!("ended early: {text}");
            tell(&Notice::EndedEarly { node, error: text });
        }
        Some(Leave::Told(_)) => tracing::error!("{text}"),
        None => {
            tracing::error!("{text}");
            tell(&Notice::Failed { node, error: text });
        }
    }
}

/// Takes away from a command what `cargo run`, `test` and `bench` say of the package that they start. Build scripts of
/// dependencies watch some of it (ring does), so that the builds that a dataflow names would start from nothing.
pub fn forget_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        if of_package || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
}

/// A message without line breaks and without the back trace that libtorch appends.
pub fn one_line(message: &str) -> String {
    let message = message.split("Exception raised from").next().unwrap_or_default().replace("\\n", " ");
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Most memory this process has had resident, where the system tells.
fn peak_memory_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
}
