//! Threads that prepare windows ahead of the network, in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::sampler::{Sample, Sampler};
use crate::training::config::PrefetchConfig;
use crate::training::error::TrainingError;

type Made = Result<Sample, TrainingError>;

/// The windows from `first` on. Thread t of T prepares the windows t, t + T, t + 2T, … and keeps a bounded number of
/// them ready. They are taken from the threads in turn, so the stream does not depend on T. Dropping this ends the
/// threads.
#[derive(Debug)]
pub struct Prefetch {
    queues: Vec<Receiver<Made>>,
    turn: usize,
}

impl Prefetch {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`TrainingError::Loader`] if the system cannot start a thread.
    pub fn new(sampler: &Arc<Sampler>, first: u64, config: PrefetchConfig) -> Result<Self, TrainingError> {
        let threads = config.threads.max(1);
        let start = |thread: usize| {
            let (to_network, queue) = sync_channel(config.queue.max(1));
            let sampler = sampler.clone();
            let work = move || {
                for index in (first + thread as u64..).step_by(threads) {
                    let made = catch_unwind(AssertUnwindSafe(|| sampler.sample(index)))
                        .unwrap_or_else(|_| Err(TrainingError::Loader(format!("window {index} panicked"))));
                    let is_last = made.is_err();
                    if to_network.send(made).is_err() || is_last {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name(format!("loader-{thread}"))
                .spawn(work)
                .map_err(|error| TrainingError::Loader(error.to_string()))?;
            Ok(queue)
        };
        Ok(Self { queues: (0..threads).map(start).collect::<Result<_, TrainingError>>()?, turn: 0 })
    }

    /// Waits for the next window and returns it.
    ///
    /// # Errors
    /// Why it could not be prepared.
    pub fn next_sample(&mut self) -> Made {
        let queue = &self.queues[self.turn];
        self.turn = (self.turn + 1) % self.queues.len();
        queue.recv().unwrap_or_else(|_| Err(TrainingError::Loader("its error was reported before".into())))
    }
}
