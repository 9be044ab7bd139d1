//! What every node does before it joins a dataflow.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};

use eyre::{Report, Result, WrapErr};
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::join::{Leave, node_name, shared_memory, would_fail_again};
use super::notice::{Notice, tell};
use super::said::Said;
use super::shared_memory::SharedMemory;

/// dora's settings for zenoh. Its publisher waits for 1 ms on a congested link and then silently drops the message;
/// this makes it wait for a minute. dora reads the settings when a process opens its session.
pub fn transport_overlay(memory: SharedMemory) -> String {
    let congestion = "link:{tx:{queue:{congestion_control:{drop:{\
        wait_before_drop:60000000,max_wait_before_drop_fragments:60000000}}}}}";
    match memory {
        SharedMemory::Share(_) => format!("{{transport:{{{congestion}}}}}\n"),
        SharedMemory::Off => format!("{{transport:{{{congestion},shared_memory:{{enabled:false}}}}}}\n"),
    }
}

/// Log level: warnings, except those of every healthy start of dora and zenoh, and our own information.
const LOG: &str = "warn,zenoh::net::runtime=off,dora_node_api=error,self_prompt_sam=info,spsam=info";
const OVERLAY_VARIABLE: &str = "DORA_ZENOH_CONFIG_OVERLAY";

/// Sets up the log: stderr, `RUST_LOG`.
pub(super) fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    // A second installation (several nodes in one test process) is harmless.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(false)
        .log_internal_errors(false); // which would go to the same stderr, and panic
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(Said).try_init();
    // libtorch's panics contain a C++ back trace; only the first line is logged.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", one_line(&panic.to_string()))));
}

/// Makes the kernel end this process together with `dora run`, until it joins the dataflow; after that, dora's
/// library does so.
fn end_with_dora() -> Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    let Some(dora) = env::var("DORA_RUN_PARENT_PID").ok().and_then(|text| text.parse().ok()) else {
        return Ok(());
    };
    // If a wrapper is in between, this has no effect.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) == Some(dora) {
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    Ok(())
}

fn install_overlay() -> Result<()> {
    if env::var_os(OVERLAY_VARIABLE).is_some() {
        return Ok(());
    }
    // A file in memory needs no clean-up and no writable folder.
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

/// As `node_main`, for a node that computes nothing: its program needs no libtorch.
pub fn small_node_main(main: impl FnOnce() -> Result<()>) -> ExitCode {
    run_node(|| {
        start_log();
        main()
    })
}

pub(super) fn run_node(main: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = end_with_dora().and_then(|()| install_overlay()).and_then(|()| {
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

/// Several failures.
#[derive(Debug, Error)]
#[error("{}", .0.join("; "))]
pub struct Failures(pub Vec<String>);

/// Runs a program that is not a node. An error becomes one line on stderr (for [`Failures`] one line each) and exit
/// code 1.
pub fn exit_code(main: impl FnOnce() -> Result<()>) -> ExitCode {
    let Err(error) = main() else { return ExitCode::SUCCESS };
    let lines = match error.downcast_ref::<Failures>() {
        Some(Failures(lines)) => lines.clone(),
        None => vec![reason(&error)],
    };
    for line in lines {
        // The terminal itself may have been closed.
        let _ = writeln!(std::io::stderr(), "error: {}", one_line(&line));
    }
    ExitCode::FAILURE
}

/// An error with its causes on one line. A cause that the message before it contains already is left out.
pub fn reason(error: &Report) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    one_line(&text)
}

/// Logs why a node has ended, and notifies the command. A consequence of another node's failure is not logged as an
/// error.
fn say_why(error: &Report) {
    let text = reason(error);
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

/// Removes the variables that `cargo run`, `test` and `bench` set for the package that they start. Build scripts of
/// dependencies (ring) watch some of them, so the build commands of a dataflow would rebuild everything.
pub fn forget_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        if of_package || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
}

/// A message without line breaks and without libtorch's back trace.
pub fn one_line(message: &str) -> String {
    let message = message.split("Exception raised from").next().unwrap_or_default().replace("\\n", " ");
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Peak resident memory of this process, if the system reports it.
fn peak_memory_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = crate::dicom::DicomError::Io { path: "a.nii".into(), source: io };
        let text = reason(&Report::new(error).wrap_err("case a"));
        assert_eq!(text, "case a: a.nii: entity not found");
    }
}
