//! The thread that sends what waits in an outbox.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};

use super::folder::{Outbox, name_of};
use crate::scanner::sender::{Delivery, Destination, Instance, Outcome, StoreStatus, TimeLimits, send};

/// Time between two looks at the outbox.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pauses while the receiver takes nothing: the first, doubled up to the last.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Time between two looks whether the thread has ended.
const MOMENT: Duration = Duration::from_millis(10);

/// Sends what waits in an outbox, one instance after the other, until it is accepted.
pub struct Courier {
    outbox: Arc<Outbox>,
    /// Dropped when nothing is to be put into the outbox any more.
    open: Sender<()>,
    thread: JoinHandle<()>,
}

/// What became of an instance.
enum Attempt {
    Delivered,
    /// It will never be accepted, and why.
    Refused(String),
    /// It may be accepted later, and why not now.
    Later(String),
    /// A newer one has replaced it.
    Gone,
}

impl Courier {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(outbox: Arc<Outbox>, to: Destination) -> io::Result<Self> {
        let network = runtime::Builder::new_current_thread().enable_all().build()?;
        let (open, until) = channel();
        let mut route = Route { outbox: outbox.clone(), to, network, is_failing: false };
        let thread = thread::Builder::new().name("courier".into()).spawn(move || route.run(&until))?;
        Ok(Self { outbox, open, thread })
    }

    /// Nothing more is put into the outbox: tries once more to send what waits, for so long at most. Returns how many
    /// instances still wait.
    ///
    /// # Errors
    /// An outbox that cannot be read.
    pub fn finish(self, patience: Duration) -> io::Result<usize> {
        drop(self.open);
        let until = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(MOMENT);
        }
        Ok(self.outbox.waiting()?.len())
    }
}

/// The state of the thread.
struct Route {
    outbox: Arc<Outbox>,
    to: Destination,
    network: Runtime,
    /// Whether the last attempt has failed for the time being, which is said once.
    is_failing: bool,
}

impl Route {
    fn run(&mut self, until: &Receiver<()>) {
        let mut pause = PAUSES[0];
        loop {
            // A panic is logged where it happens; the next round begins anew.
            let is_done = catch_unwind(AssertUnwindSafe(|| self.round())).unwrap_or(false);
            let wait = if is_done { LOOK_EVERY } else { pause };
            pause = if is_done { PAUSES[0] } else { PAUSES[1].min(2 * pause) };
            if until.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                let _ = catch_unwind(AssertUnwindSafe(|| self.round()));
                return;
            }
        }
    }

    /// Sends what waits. False if the receiver takes nothing for the time being.
    fn round(&mut self) -> bool {
        let waiting = match self.outbox.waiting() {
            Ok(waiting) => waiting,
            Err(error) => return self.fails(&error.to_string()),
        };
        for path in waiting {
            let (name, to) = (name_of(&path), self.to.clone());
            let done = match self.attempt(&path) {
                Attempt::Later(reason) => return self.fails(&reason),
                Attempt::Gone => continue,
                Attempt::Delivered => {
                    self.is_failing = false;
                    tracing::info!("{name} is delivered to {} at {}", to.called_title(), to.address());
                    self.outbox.delivered(&path)
                }
                Attempt::Refused(reason) => self.outbox.refuse(&path).map(|aside| {
                    let aside = aside.display();
                    tracing::warn!("{name} is not delivered: {reason}; it is set aside in {aside}");
                }),
            };
            if let Err(error) = done {
                return self.fails(&error.to_string());
            }
        }
        true
    }

    fn fails(&mut self, reason: &str) -> bool {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!("{reason}: what is to be delivered waits, and is tried again");
        }
        false
    }

    fn attempt(&self, path: &Path) -> Attempt {
        let instance = match Instance::of_file(path) {
            Ok(instance) => instance,
            Err(_) if !path.exists() => return Attempt::Gone,
            Err(error) => return Attempt::Refused(error.to_string()),
        };
        let limits = TimeLimits::default();
        let Delivery { answers, error } = self.network.block_on(send(&self.to, &limits, &[instance]));
        match (answers.first(), error) {
            // It has come before: the answer to it was lost.
            (Some(answer), _) if answer.status == StoreStatus::DUPLICATE => Attempt::Delivered,
            (Some(answer), _) if answer.status.outcome() != Outcome::Failure => Attempt::Delivered,
            (Some(answer), _) => {
                // Its own words may name a patient.
                let reason = format!("{} answers: {}", self.to.address(), answer.status);
                if answer.status.is_transient() { Attempt::Later(reason) } else { Attempt::Refused(reason) }
            }
            (None, Some(error)) if error.is_transient() => Attempt::Later(error.to_string()),
            (None, Some(_)) if !path.exists() => Attempt::Gone,
            (None, Some(error)) => Attempt::Refused(error.to_string()),
            (None, None) => Attempt::Later(format!("no answer of {}", self.to.address())),
        }
    }
}
