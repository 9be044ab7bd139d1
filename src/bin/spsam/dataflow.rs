//! A dataflow that dora runs for a command.

mod descriptor;
mod log;
mod notices;
mod scratch;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr};
use libc::SIGKILL;
use self_prompt_sam::runtime::{
    NOTICES_VARIABLE, Notice, Room, SharedMemory, encode_setting, forget_package, transport_overlay,
};
use serde_yaml::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub use self::log::LOG;
use self::log::Log;
use self::notices::{Notices, Reasons, last_error};
use self::scratch::Scratch;
use super::progress::Display;

/// How long a run may continue after a node has reported that it cannot work: first to stop by itself, then after
/// being asked.
const LOST_FOR: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(8)];
/// Variable with dora's settings for zenoh.
const OVERLAY_VARIABLE: &str = "DORA_ZENOH_CONFIG_OVERLAY";

/// A dataflow to run.
pub enum Flow {
    /// One of this project, whose programs are already built.
    Own(PathBuf),
    /// A user's own dataflow, passed to dora unchanged.
    Custom(PathBuf),
}

/// dora and its nodes, which end when this is dropped.
pub struct Dataflow {
    dora: Child,
    /// Set by a signal to terminate.
    signal: Arc<AtomicBool>,
    notices: Notices,
    log: Log,
    display: Display,
    reasons: Reasons,
    _scratch: Scratch,
}

/// Checks that this machine can talk to itself: dora and its nodes do, over TCP.
fn loopback() -> Result<()> {
    let connect = || TcpStream::connect(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?);
    connect()
        .map(|_| ())
        .wrap_err("no network, not even 127.0.0.1, over which dora talks to its nodes (`ip link set lo up`)")
}

impl Dataflow {
    /// Starts `dora run` with settings, in a separate process group: signals reach only this process, which decides
    /// what to do. The file `log` in the folder `output`, which must exist, gets the log.
    pub fn start(
        flow: &Flow,
        settings: &[(&'static str, OsString)],
        output: &Path,
        log: &str,
        verbose: bool,
    ) -> Result<Self> {
        loopback()?;
        let scratch = Scratch::new(output)?;
        let (path, descriptor) = for_dora(flow, settings, &scratch)?;
        let signal = Arc::new(AtomicBool::new(false));
        for number in signals_to_end() {
            signal_hook::flag::register(number, signal.clone()).wrap_err("installing the signal handler")?;
        }
        let notices = Notices::listen().wrap_err("a pipe for the nodes' notices")?;
        let log = Log::create(&output.join(log), verbose)?;
        let program = super::dora();
        let mut command = Command::new(&program);
        forget_package(&mut command);
        // A dataflow's `env:` may read these variables, and the folder in which relative paths start.
        if let Ok(folder) = std::env::current_dir() {
            command.env("PWD", encode_setting(folder.as_os_str()));
        }
        command
            .arg("run")
            .arg(&path)
            .envs(settings.iter().map(|(name, value)| (name, encode_setting(value))))
            .env(NOTICES_VARIABLE, notices.path())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        limit_memory(&mut command, &descriptor, &scratch, &log)?;
        ends_with_this_process(&mut command);
        let mut dora = command.spawn().wrap_err_with(|| {
            format!("starting {}; `spsam doctor` says what is missing", program.display())
        })?;
        if let (Some(stdout), Some(stderr)) = (dora.stdout.take(), dora.stderr.take()) {
            log.follow(stdout).and_then(|()| log.follow(stderr)).wrap_err("a thread for the log")?;
        }
        let (display, reasons) = (Display::new(verbose), Reasons::default());
        Ok(Self { dora, signal, notices, log, display, reasons, _scratch: scratch })
    }

    /// Waits for the dataflow to end. The first signal calls `stop`, which returns a message for the user; the
    /// second ends everything at once.
    pub fn wait(mut self, stop: impl FnOnce(&Self) -> Result<&'static str>) -> Result<Ended> {
        let mut stop = Some(stop);
        let mut lost: Option<Instant> = None;
        let mut asked = false;
        let status = loop {
            for notice in self.notices.new_ones() {
                self.take(&notice);
            }
            if let Some(status) = self.dora.try_wait()? {
                break status;
            }
            if self.signal.swap(false, Ordering::Relaxed) {
                let Some(stop) = stop.take() else { return Ok(Ended::AtOnce) };
                let said = stop(&self)?;
                self.display.say(&format!("{said}; again to stop at once"));
            }
            if self.reasons.is_lost() {
                let since = lost.get_or_insert_with(Instant::now).elapsed();
                if since > LOST_FOR[1] {
                    return Ok(Ended::Failed(self.failure()));
                } else if since > LOST_FOR[0] && !asked {
                    asked = true;
                    self.terminate();
                }
            }
            thread::sleep(Duration::from_millis(50));
        };
        let was_stopped = stop.is_none();
        if status.success() || was_stopped {
            self.display.clear();
            return Ok(if was_stopped { Ended::Stopped(status) } else { Ended::Succeeded });
        }
        Ok(Ended::Failed(self.failure()))
    }

    fn take(&mut self, notice: &Notice) {
        self.reasons.add(notice);
        match notice {
            Notice::Progress(progress) => self.display.progress(progress),
            Notice::Said(text) => self.display.say(text),
            Notice::Warned(text) => self.display.warn(text),
            _ => {}
        }
    }

    /// Why the run has failed, and the path of its log.
    fn failure(mut self) -> Failure {
        self.end();
        // Replaced by an unused one, because this one is consumed.
        let notices = Notices::listen().map(|fresh| std::mem::replace(&mut self.notices, fresh));
        for notice in notices.map(Notices::rest).unwrap_or_default() {
            self.take(&notice);
        }
        self.display.clear();
        let mut reasons = self.reasons.lines();
        if reasons.is_empty() {
            let last = File::open(self.log.path()).ok().and_then(last_error);
            reasons.push(last.unwrap_or_else(|| "dora ended without a reason".into()));
        }
        Failure { reasons, log: self.log.path().to_path_buf() }
    }

    /// Asks dora to stop its nodes and exit.
    pub fn terminate(&self) {
        self.kill(SIGTERM, self.id());
    }

    fn id(&self) -> i32 {
        self.dora.id() as i32
    }

    fn kill(&self, signal: i32, process: i32) {
        // SAFETY: kill takes only numbers. The process is a child that has not been waited for, so its id is not
        // reused.
        unsafe { libc::kill(process, signal) };
    }

    /// Kills dora; its nodes notice and end.
    fn end(&mut self) {
        if let Ok(None) = self.dora.try_wait() {
            self.kill(SIGKILL, -self.id());
            let _ = self.dora.wait();
        }
    }
}

impl Drop for Dataflow {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a dataflow ended.
pub enum Ended {
    /// Everything is done.
    Succeeded,
    /// By itself, without success.
    Failed(Failure),
    /// After a signal.
    Stopped(ExitStatus),
    /// By a second signal.
    AtOnce,
}

/// Why a run failed.
pub struct Failure {
    /// The reasons, one line each.
    pub reasons: Vec<String>,
    /// Path of the complete log.
    pub log: PathBuf,
}

/// The file passed to dora, and its contents.
fn for_dora(
    flow: &Flow,
    settings: &[(&'static str, OsString)],
    scratch: &Scratch,
) -> Result<(PathBuf, Value)> {
    let own = match flow {
        Flow::Own(own) => own,
        Flow::Custom(path) => return Ok((path.clone(), descriptor::read(path)?)),
    };
    let set: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
    let descriptor = descriptor::prepare(own, &set)?;
    let path = scratch.path().join(own.file_name().unwrap_or_default());
    let types = descriptor::folder_of(own)?.join("types");
    let written = fs::write(&path, serde_yaml::to_string(&descriptor)?)
        .and_then(|()| std::os::unix::fs::symlink(types, scratch.path().join("types")));
    written.wrap_err_with(|| scratch.path().display().to_string())?;
    Ok((path, descriptor))
}

/// Turns shared memory of dora's daemon off if there is too little. The nodes limit their own.
fn limit_memory(command: &mut Command, descriptor: &Value, scratch: &Scratch, log: &Log) -> Result<()> {
    let room = Room::here();
    let memory = SharedMemory::for_dataflow(descriptor, room);
    if let Some(remark) = memory.remark(room) {
        log.write(format!("{remark}\n").as_bytes());
        eprintln!("note: {remark}");
    }
    if memory == SharedMemory::Off && std::env::var_os(OVERLAY_VARIABLE).is_none() {
        let overlay = scratch.path().join("zenoh.json5");
        fs::write(&overlay, transport_overlay(memory)).wrap_err_with(|| overlay.display().to_string())?;
        command.env(OVERLAY_VARIABLE, overlay);
    }
    Ok(())
}

/// Makes the kernel kill the command when this process ends, however it ends. dora's nodes end when dora does.
fn ends_with_this_process(command: &mut Command) {
    let own = std::process::id();
    let set = move || {
        // SAFETY: both calls take only numbers and may be made between fork and exec (signal-safety(7)).
        let parent = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, SIGKILL);
            libc::getppid()
        };
        if parent as u32 == own { Ok(()) } else { Err(io::Error::other("spsam has ended")) }
    };
    // SAFETY: `set` allocates nothing unless it fails, and then the child ends.
    unsafe { command.pre_exec(set) };
}

/// The signals that ask a program to terminate. SIGHUP is left out if it is ignored (`nohup`).
pub fn signals_to_end() -> impl Iterator<Item = i32> {
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal))
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero action is valid, and sigaction only writes the present one to it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
