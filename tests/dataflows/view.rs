//! The page of live segmentation: in a browser while images arrive, and that the run does not depend on it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::harness::{Bench, project, python};
use super::live::{assert_as_offline, start};
use super::skip::skipped;

const SLICES: usize = 12;

/// The dataflow of `examples/live-python` with the viewer of `dataflows/stream.yml`.
fn flow(bench: &Bench) -> PathBuf {
    let stream = fs::read_to_string(project().join("dataflows/stream.yml")).unwrap();
    let viewer = &stream[stream.find("  - id: live-view").unwrap()..];
    let node = project().join("examples/live-python/frames_node.py");
    bench.dataflow("examples/live-python/dataflow.yml", |text| {
        format!("{}\n{viewer}", text.replace("path: frames_node.py", &format!("path: {}", node.display())))
    })
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found =
        std::env::split_paths(&path).map(|folder| folder.join("chromium")).find(|file| file.is_file());
    if found.is_none() {
        skipped("needs the Debian package chromium");
    }
    found
}

#[test]
fn a_browser_shows_outlines_where_the_masks_are_and_asks_nobody_else() {
    let Some(chromium) = chromium() else { return };
    let bench = Bench::new(1, SLICES);
    let address = free_address();
    let screenshots = std::env::var_os("SPSAM_SCREENSHOTS").map_or_else(|| bench.path("seen"), PathBuf::from);
    let log = fs::File::create(bench.path("browser.log")).unwrap();
    let mut browser = Command::new(python())
        .arg(project().join("tests/python/watch_page.py"))
        .args([&chromium, Path::new(&format!("http://{address}/")), &screenshots])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let said_by_browser = || fs::read_to_string(bench.path("browser.log")).unwrap();
    let mut lines = BufReader::new(browser.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("ready"), "{}", said_by_browser());
    let settings = [("SPSAM_VIEW", &*address), ("SPSAM_SERIES", "0"), ("FRAMES_PER_SECOND", "1")];
    let mut run = start(&bench, &flow(&bench), "live", &settings);
    let seen = lines.next();
    assert_eq!(seen.as_deref(), Some("seen"), "{}; log:\n{}", said_by_browser(), run.log());
    run.signal("INT");
    run.finish();
    assert!(browser.wait().unwrap().success(), "{}", said_by_browser());
    assert!(!run.log().contains("ERROR"), "{}", run.log());
}

#[test]
fn a_run_does_not_depend_on_its_viewer() {
    let bench = Bench::new(1, SLICES);
    let flow = flow(&bench);
    let address = free_address();
    let settings = [("SPSAM_VIEW", &*address), ("FRAMES_PER_SECOND", "1")];
    let mut run = start(&bench, &flow, "killed", &settings);
    for times in 1..=3 {
        // dora writes what a node that died had said once more, without its name.
        let says = |line: &&str| line.contains("live-view:") && line.contains("the page is at");
        run.wait_until("another page", |log| log.lines().filter(says).count() == times);
        run.kill("spsam-live-view");
    }
    assert!(run.finish().success(), "{}", run.log());
    assert_as_offline(&bench, "killed", "killed-offline");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (output, address) in [("off", "off"), ("taken", &*taken)] {
        let mut run = start(&bench, &flow, output, &[("SPSAM_VIEW", address), ("FRAMES_PER_SECOND", "9")]);
        assert!(run.finish().success(), "{}", run.log());
        assert!(run.log().contains("there is no page") == (output == "taken"), "{}", run.log());
    }
    let mut run = start(&bench, &flow, "wrong", &[("SPSAM_VIEW", "8765")]);
    assert!(!run.finish().success());
    assert!(run.log().contains("SPSAM_VIEW is `8765`, expected address:port or off"), "{}", run.log());
}
