//! What a test says when it cannot run here, so that it counts as skipped and not as passed.
//!
//! libtest knows no skipping while a test runs, and hides what a passing test prints. So each skip is a line of the file
//! that `SPSAM_SKIP_LOG` names; `cargo xtask test` names one and adds the lines up. Without it they go to stderr.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;

/// The test does not run, for want of what `reason` names. Return after it.
#[track_caller]
pub fn skipped(reason: &str) {
    say("skipped", reason, Location::caller());
}

/// The test runs without the part that `reason` names.
#[allow(dead_code, reason = "not every test program has tests that run in part")]
#[track_caller]
pub fn shortened(reason: &str) {
    say("in part", reason, Location::caller());
}

fn say(what: &str, reason: &str, place: &Location) {
    // libtest names each test's thread after the test, unless it runs all of them in the main thread.
    let thread = std::thread::current();
    let test = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => place.to_string(),
    };
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("{what}\t{}::{test}\t{reason}\n", env!("CARGO_CRATE_NAME"));
    let log = std::env::var_os("SPSAM_SKIP_LOG");
    let written = log.map(|path| {
        // One write each, at the end: several programs may do so.
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(line.as_bytes())
    });
    if !matches!(written, Some(Ok(()))) {
        // Not by `eprint!`, which libtest catches.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
