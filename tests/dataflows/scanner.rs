//! The scanner source in a dataflow, with the programs of other authors as scanners.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use self_prompt_sam::files::write_atomically;

use super::harness::{Bench, Run, project, python};
use super::skip::{shortened, skipped};

const FLOW: &str = "
nodes:
  - id: scanner-source
    path: ../target/release/spsam-scanner-source
    inputs:
      frame_ack: { source: receiver/frame_ack, queue_size: 1000, queue_policy: backpressure }
    input_types: { frame_ack: spsam/v1/FrameAck }
    outputs: [frames, series]
    output_types: { frames: spsam/v1/Frame, series: spsam/v1/Series }
    restart_policy: on-failure
    max_restarts: 5
    finish_grace_secs: 86400
    shared_memory_pool_size: 64MB
  - id: receiver
    path: RECEIVER
    inputs:
      frames: { source: scanner-source/frames, queue_size: 2048, queue_policy: drop_oldest }
      series: { source: scanner-source/series, queue_size: 1000, queue_policy: backpressure }
    input_types: { frames: spsam/v1/Frame, series: spsam/v1/Series }
    outputs: [frame_ack]
    output_types: { frame_ack: spsam/v1/FrameAck }
    finish_grace_secs: 86400
";

/// The dataflow while it runs.
struct Live {
    bench: Bench,
    run: Run,
    port: String,
}

impl Live {
    /// Ends by itself after this many series.
    fn start(series: usize, settings: &[(&str, &str)]) -> Self {
        let bench = Bench::new(1, 2);
        let flow = bench.path("flow");
        fs::create_dir_all(flow.join("types/spsam")).unwrap();
        let types = "types/spsam/v1.yml";
        fs::copy(project().join("dataflows").join(types), flow.join(types)).unwrap();
        let (file, receiver) = (flow.join("flow.yml"), project().join("tests/python/frames_receiver.py"));
        let text = FLOW
            .replace("../target/", &format!("{}/", project().join("target").display()))
            .replace("RECEIVER", &receiver.display().to_string());
        write_atomically(&file, |file| file.write_all(text.as_bytes())).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let (listen, series) = (format!("127.0.0.1:{port}"), series.to_string());
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", python().parent().unwrap().display());
        let mut all = vec![("SPSAM_LISTEN", &*listen), ("SERIES", &series), ("PATH", &path)];
        all.extend([("SPSAM_SERIES_IDLE_SECS", "2")]);
        all.extend(settings);
        let mut run = bench.start(&file, "live", &all);
        run.wait_for("listens on");
        Self { bench, run, port }
    }

    /// Runs a sender until it succeeds, at most for some seconds.
    fn send(&self, program: &str, arguments: &[&str]) -> Output {
        let mut output = None;
        for _ in 0..50 {
            let next = Command::new(program).args(arguments).output().unwrap();
            let succeeded = next.status.success();
            output = Some(next);
            if succeeded {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program}: {said}; log:\n{}", self.run.log());
        output
    }

    fn frames(&self) -> PathBuf {
        self.bench.path("live/frames")
    }

    /// The images that have arrived are those of the files, as pydicom reads them.
    fn assert_same(&self, series: &[PathBuf]) {
        self.assert_close(0, series);
    }

    /// As [`Live::assert_same`], but pixels may differ by so much.
    fn assert_close(&self, tolerance: u16, series: &[PathBuf]) {
        let script = project().join("tests/python/compare_frames.py");
        let mut compare = Command::new(python());
        compare.arg(script).arg(tolerance.to_string()).arg(self.frames()).args(series);
        let output = compare.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Path of a program of DCMTK. pynetdicom has programs with the same names.
pub fn dcmtk(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let is_of_dcmtk = |candidate: &PathBuf| {
        let output = Command::new(candidate).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("dcmtk"))
    };
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(is_of_dcmtk);
    found.map(|path| path.display().to_string())
}

/// Series of all kinds, made with pydicom.
fn series(bench: &Bench) -> Vec<PathBuf> {
    let folder = bench.path("series");
    let script = project().join("tests/python/make_dicom.py");
    assert!(Command::new(python()).arg(script).arg(&folder).status().unwrap().success());
    let mut series: Vec<PathBuf> =
        fs::read_dir(folder.join("good")).unwrap().map(|entry| entry.unwrap().path()).collect();
    series.sort();
    series
}

fn files(folder: &Path) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    files
}

#[test]
fn series_of_real_senders_arrive_unchanged() {
    let [Some(echoscu), Some(storescu), Some(dcmsend)] = ["echoscu", "storescu", "dcmsend"].map(dcmtk) else {
        return skipped("needs the Debian package dcmtk");
    };
    let mut live = Live::start(15, &[]);
    let series = series(&live.bench);
    assert_eq!(series.len(), 15);
    live.send(&echoscu, &["-aec", "SPSAM", "127.0.0.1", &live.port]);
    let has_pynetdicom =
        Command::new(python()).args(["-c", "import pynetdicom"]).output().unwrap().status.success();
    if !has_pynetdicom {
        shortened("pynetdicom is not installed: series are sent with DCMTK only");
    }
    for (index, folder) in series.iter().enumerate() {
        let files = files(folder);
        let files = files.iter().map(String::as_str);
        match index % 3 {
            0 => {
                // -xf would need a file; -R proposes only what the files need.
                let mut arguments = vec!["-aec", "SPSAM", "-R", "127.0.0.1", &live.port];
                arguments.extend(files);
                live.send(&storescu, &arguments);
            }
            1 if has_pynetdicom => {
                // It takes one transfer syntax for a class, whatever the files need, without -cx.
                let target =
                    ["-m", "pynetdicom", "storescu", "-cx", "-aec", "SPSAM", "127.0.0.1", &live.port];
                let folder = folder.to_str().unwrap();
                live.send(python().to_str().unwrap(), &[&target[..], &[folder]].concat());
            }
            _ => {
                let mut arguments = vec!["-aec", "SPSAM", "127.0.0.1", &live.port];
                arguments.extend(files);
                live.send(&dcmsend, &arguments);
            }
        }
    }
    assert!(live.run.finish().success(), "{}", live.run.log());
    live.assert_same(&series);
    assert!(!live.run.log().to_lowercase().contains("secret"), "{}", live.run.log());
}

/// Lossless ones arrive as what was encoded, lossy ones as other decoders read them, but for rounding.
#[test]
fn series_arrive_in_every_transfer_syntax_that_can_be_made_here() {
    let programs = ["dcmsend", "dcmcjpls", "dcmconv", "dcmcjpeg", "dcmcrle", "dcmdjpeg"].map(dcmtk);
    let [Some(dcmsend), Some(dcmcjpls), _, Some(dcmcjpeg), ..] = &programs else {
        return skipped("needs the Debian package dcmtk");
    };
    let mut live = Live::start(10, &[]);
    let folder = live.bench.path("syntaxes");
    let script = project().join("tests/python/transfer_syntaxes.py");
    assert!(Command::new(python()).arg(script).arg(&folder).status().unwrap().success());
    let folders = |name: &str| -> Vec<PathBuf> {
        fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let send = |files: Vec<String>| {
        // -dn: as they are
        let mut arguments = vec!["-dn", "-aec", "SPSAM", "127.0.0.1", &live.port];
        arguments.extend(files.iter().map(String::as_str));
        Command::new(dcmsend).args(arguments).output().unwrap()
    };
    let plain = &files(&folder.join("lossless/explicit"))[0];
    let refused = live.bench.path("refused.dcm");
    for (encoder, options) in [(dcmcjpls, &[][..]), (dcmcjpeg, &["+un", "+ee"])] {
        assert!(Command::new(encoder).args(options).arg(plain).arg(&refused).status().unwrap().success());
        send(vec![refused.to_str().unwrap().to_owned()]); // if it were taken, it would be one series too many
    }
    assert!(live.run.log().contains("lossy JPEG images have 12 bits"), "{}", live.run.log());
    let (lossless, lossy) = (folders("lossless"), folders("lossy"));
    assert_eq!((lossless.len(), lossy.len()), (7, 3));
    for folder in lossless.iter().chain(&lossy) {
        let sent = send(files(folder));
        let said = String::from_utf8_lossy(&sent.stderr).into_owned();
        assert!(sent.status.success(), "{}: {said}; log:\n{}", folder.display(), live.run.log());
    }
    assert!(live.run.finish().success(), "{}", live.run.log());
    let truth = |sent: &[PathBuf]| -> Vec<PathBuf> {
        sent.iter().map(|sent| folder.join("truth").join(sent.file_name().unwrap())).collect()
    };
    live.assert_same(&truth(&lossless));
    live.assert_close(2, &truth(&lossy));
}

/// The source is killed while series arrive, and the receiver loses every image once.
#[test]
fn a_source_that_is_killed_loses_no_image_that_was_acknowledged() {
    let Some(dcmsend) = dcmtk("dcmsend") else {
        return skipped("needs the Debian package dcmtk");
    };
    let mut live = Live::start(3, &[("LOSE", "1"), ("SPSAM_SERIES_IDLE_SECS", "8")]);
    let series: Vec<PathBuf> = series(&live.bench)
        .into_iter()
        .filter(|folder| {
            ["axial", "oblique", "sagittal"].contains(&folder.file_name().unwrap().to_str().unwrap())
        })
        .collect();
    for folder in &series {
        let files = files(folder);
        for (index, file) in files.iter().enumerate() {
            live.send(&dcmsend, &["-aec", "SPSAM", "127.0.0.1", &live.port, file]);
            if index == 2 {
                live.run.kill("spsam-scanner-source");
            }
        }
    }
    assert!(live.run.finish().success(), "{}", live.run.log());
    live.assert_same(&series);
}

/// A program without libtorch starts at once, and codecs that are attacked are in a process with little else.
#[test]
fn the_source_is_not_linked_to_libtorch() {
    let program = project().join("target/release/spsam-scanner-source");
    let Ok(output) = Command::new("readelf").arg("-d").arg(&program).output() else {
        return skipped("readelf is not installed");
    };
    let needed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(needed.contains("NEEDED") && needed.contains("libc.so"), "{}: {needed}", program.display());
    for library in ["libtorch", "libc10", "libgomp"] {
        assert!(!needed.contains(&format!("[{library}")), "{needed}");
    }
}
