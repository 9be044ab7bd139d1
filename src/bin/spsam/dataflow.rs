//! A dataflow that dora runs for a command.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use eyre::{Result, WrapErr, bail};
use libc::SIGKILL;
use self_prompt_sam::runtime::{encode_setting, forget_package};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// dora and its nodes, which end with this.
pub struct Dataflow {
    dora: Child,
    /// Set by a signal to end.
    signal: Arc<AtomicBool>,
}

impl Dataflow {
    /// Starts `dora run` with settings, in a process group of its own: signals to end reach this process alone, and it
    /// says what they mean.
    pub fn start(
        dataflow: &Path,
        settings: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> Result<Self> {
        if !dataflow.exists() {
            bail!("{}: no such dataflow", dataflow.display());
        }
        let signal = Arc::new(AtomicBool::new(false));
        for number in signals_to_end() {
            signal_hook::flag::register(number, signal.clone()).wrap_err("installing the signal handler")?;
        }
        let program = super::dora();
        let mut command = Command::new(&program);
        forget_package(&mut command);
        // The dataflow's `env:` reads these, and the folder that relative paths start from.
        command.envs(settings.into_iter().map(|(name, value)| (name, encode_setting(&value))));
        if let Ok(folder) = std::env::current_dir() {
            command.env("PWD", encode_setting(folder.as_os_str()));
        }
        let dora = command.arg("run").arg(dataflow).process_group(0).spawn().wrap_err_with(|| {
            format!("starting {}; `spsam doctor` says what is missing", program.display())
        })?;
        Ok(Self { dora, signal })
    }

    /// Waits for its end. The first signal calls `stop`, which says what it does; the second ends everything at once.
    pub fn wait(mut self, stop: impl FnOnce(&Self) -> Result<&'static str>) -> Result<Ended> {
        let mut stop = Some(stop);
        loop {
            if let Some(status) = self.dora.try_wait()? {
                return Ok(if stop.is_none() { Ended::Stopped(status) } else { Ended::ByItself(status) });
            }
            if self.signal.swap(false, Ordering::Relaxed) {
                let Some(stop) = stop.take() else { return Ok(Ended::AtOnce) };
                let said = stop(&self)?;
                // The terminal may be what has gone.
                let _ = writeln!(io::stderr(), "{said}; again to stop at once");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks dora to stop its nodes and to end.
    pub fn terminate(&self) {
        self.kill(SIGTERM, self.id());
    }

    fn id(&self) -> i32 {
        self.dora.id() as i32
    }

    fn kill(&self, signal: i32, process: i32) {
        // SAFETY: kill takes numbers alone. The process is a child that has not been waited for, so its number is its own.
        unsafe { libc::kill(process, signal) };
    }
}

/// How a dataflow ended.
pub enum Ended {
    /// Without having been asked.
    ByItself(ExitStatus),
    /// After a signal.
    Stopped(ExitStatus),
    /// By a second signal.
    AtOnce,
}

/// The signals that ask a program to end; not SIGHUP where it was told to ignore that (`nohup`).
pub fn signals_to_end() -> impl Iterator<Item = i32> {
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal))
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: an action of zeros is valid, and sigaction only writes the present one to it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

impl Drop for Dataflow {
    fn drop(&mut self) {
        if let Ok(None) = self.dora.try_wait() {
            self.kill(SIGKILL, -self.id());
            let _ = self.dora.wait();
        }
    }
}
