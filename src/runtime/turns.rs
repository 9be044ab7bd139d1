//! The cores of a machine, used by one node at a time.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::thread;

use tch::Device;

use super::settings::number;
use crate::compute::Compute;

/// Nodes of a dataflow that have a network.
const NETWORKS: usize = 3;

/// The turns in which the nodes of a run on one machine compute on its CPU: each has a thread a core (decision 8), so two that
/// compute together only wait for each other. Held by a lock on a file in the system's temporary folder, which a node that dies
/// lets go of.
///
/// Nodes on a GPU compute whenever they like, and so do nodes whose `SPSAM_THREADS` leave cores for the others.
#[derive(Debug)]
pub(super) struct Turns(Option<(PathBuf, File)>);

/// A turn, until it is dropped.
pub(super) struct Turn<'a>(Option<&'a File>);

impl Turns {
    /// Of a node of `run` whose network computes in `compute`.
    ///
    /// # Errors
    /// `SPSAM_THREADS` that is not a number.
    pub fn new(run: &str, compute: Option<Compute>) -> eyre::Result<Self> {
        let threads = number("SPSAM_THREADS", 0)?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let has_room = threads > 0 && threads.saturating_mul(NETWORKS) <= cores;
        if has_room || compute.is_none_or(|compute| compute.device != Device::Cpu) {
            return Ok(Self(None));
        }
        let path = std::env::temp_dir().join(format!("spsam-{run}.turn"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        Ok(Self(match file {
            Ok(file) => Some((path, file)),
            Err(error) => {
                let path = path.display();
                tracing::warn!(
                    "{path}: {error}; the nodes of this machine compute at the same time, which is slower"
                );
                None
            }
        }))
    }

    /// Waits until no other node computes.
    ///
    /// # Errors
    /// A file system that cannot lock.
    pub fn take(&self) -> io::Result<Turn<'_>> {
        let file = self.0.as_ref().map(|(_, file)| file);
        file.map_or(Ok(()), File::lock)?;
        Ok(Turn(file))
    }
}

impl Drop for Turns {
    /// Removes the file; nodes that still work have it open.
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            // Closing the file at the latest lets go of it.
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_node_of_a_run_computes_at_a_time() {
        let run = format!("test-{}", std::process::id());
        let nodes = [(); 4].map(|()| Turns::new(&run, Some(Compute::fp32(Device::Cpu))).unwrap());
        let computing = AtomicUsize::new(0);
        thread::scope(|scope| {
            for turns in &nodes {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _turn = turns.take().unwrap();
                        assert_eq!(computing.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        computing.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
