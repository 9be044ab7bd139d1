//! A dataflow that dora runs for a command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use eyre::{Result, WrapErr, bail};
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
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(number, signal.clone()).wrap_err("installing the signal handler")?;
        }
        let program = super::dora();
        let dora = Command::new(&program)
            .arg("run")
            .arg(dataflow)
            .envs(settings)
            .process_group(0)
            .spawn()
            .wrap_err_with(|| {
                format!("starting {}; `spsam doctor` says what is missing", program.display())
            })?;
        Ok(Self { dora, signal })
    }

    /// Waits for its end. The first signal calls `asked`; the second ends everything at once.
    pub fn wait(mut self, asked: impl FnOnce(&Self) -> Result<()>) -> Result<ExitStatus> {
        let mut asked = Some(asked);
        loop {
            if let Some(status) = self.dora.try_wait()? {
                return Ok(status);
            }
            if self.signal.swap(false, Ordering::Relaxed) {
                match asked.take() {
                    Some(asked) => asked(&self)?,
                    None => bail!("stopped at once"),
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks dora to stop its nodes and to end.
    pub fn stop(&self) {
        self.kill("-TERM", &self.dora.id().to_string());
    }

    fn kill(&self, signal: &str, process: &str) {
        let _ = Command::new("kill").args([signal, "--", process]).status();
    }
}

impl Drop for Dataflow {
    fn drop(&mut self) {
        if let Ok(None) = self.dora.try_wait() {
            self.kill("-KILL", &format!("-{}", self.dora.id()));
            let _ = self.dora.wait();
        }
    }
}
