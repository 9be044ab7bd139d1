//! Reports tests that cannot run here, so that they count as skipped and not as passed.
//!
//! libtest cannot skip a test while it runs, and hides the output of tests that pass. Each skip is therefore a line
//! in the file named by `SPSAM_SKIP_LOG`, which `cargo xtask test` sets and adds up. Without it, skips go to stderr.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;

/// Reports that the test does not run because `reason` is missing. Return after calling it.
#[track_caller]
pub fn skipped(reason: &str) {
    say("skipped", reason, Location::caller());
}

/// Reports that the test runs without the part that `reason` names.
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
        // A single append, because several programs may write to the file.
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(line.as_bytes())
    });
    if !matches!(written, Some(Ok(()))) {
        // `eprint!` would be captured by libtest.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
