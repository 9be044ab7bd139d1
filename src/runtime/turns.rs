//! The cores of a machine, used by one node at a time.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;

use tch::Device;

use super::startup::compute_threads;
use crate::compute::Compute;

/// Nodes of a dataflow that have a network.
const NETWORKS: usize = 3;

/// The turns in which nodes compute on the CPU of a machine: each has a thread a core, and two that compute together only wait
/// for each other (decision 8). A turn is the lock on a file that all nodes of a user on a machine share and that nobody
/// removes; a node that dies lets go of it.
///
/// Nodes on a GPU compute whenever they like, and so do nodes with one thread or with so few that there are cores for all.
#[derive(Debug)]
pub(super) struct Turns(Option<File>);

/// A turn, until it is dropped.
pub(super) struct Turn<'a>(Option<&'a File>);

impl Turns {
    /// Of a node whose network computes in `network`.
    pub fn new(network: Option<Compute>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let on_cpu = network.is_some_and(|compute| compute.device == Device::Cpu);
        if !on_cpu || have_room(compute_threads(), cores) {
            return Self(None);
        }
        let path = shared_file();
        Self::by(&path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(
                "{path}: {error}; nodes of this machine compute at the same time, which is slower"
            );
            Self(None)
        })
    }

    /// By a lock on `path`.
    fn by(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => file.unlock()?,
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        Ok(Self(Some(file)))
    }

    /// Waits until no other node computes.
    ///
    /// # Errors
    /// A file system that no longer locks.
    pub fn take(&self) -> io::Result<Turn<'_>> {
        let Some(file) = &self.0 else { return Ok(Turn(None)) };
        while let Err(error) = file.lock() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(Turn(Some(file)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            end_threads();
            // Closing the file at the latest lets go of it.
            let _ = file.unlock();
        }
    }
}

/// `omp_pause_resource_all`: a kind of pause in, 0 out where it has worked.
type Pause = unsafe extern "C" fn(c_int) -> c_int;

/// The entry of the OpenMP that libtorch was built with; `None` where that is older than OpenMP 5.
static PAUSE: LazyLock<Option<Pause>> = LazyLock::new(|| {
    // SAFETY: the program itself, which is loaded; the symbol has this signature by OpenMP 5.0, section 3.2.44.
    unsafe {
        libloading::os::unix::Library::this()
            .get::<Pause>(b"omp_pause_resource_all\0")
            .ok()
            .map(|symbol| *symbol)
    }
});

/// Ends the threads that this one has computed with: idle ones spin for a while, on the cores of the node that is next. The
/// next operation starts them anew.
fn end_threads() {
    const SOFT: c_int = 1;
    if let Some(pause) = *PAUSE {
        // SAFETY: no parallel region is open in this thread. GNU's ends the threads of this one alone; one that ends all of the
        // process finds no others, as a node computes in one thread.
        unsafe { pause(SOFT) };
    }
}

/// Whether all nodes can compute at once without waiting for each other's threads.
fn have_room(threads: usize, cores: usize) -> bool {
    threads == 1 || threads.saturating_mul(NETWORKS) <= cores
}

/// In memory that containers of one machine share, as dora's messages do.
fn shared_file() -> PathBuf {
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
    let user = fs::metadata("/proc/self").map_or(0, |process| process.uid());
    folder.join(format!("spsam-{user}.turn"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn one_node_computes_at_a_time_also_when_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn");
        let [first, second, replaced] = [(); 3].map(|()| Turns::by(&path).unwrap());
        drop(replaced);
        let nodes = [first, second, Turns::by(&path).unwrap()];
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

    #[test]
    fn nodes_take_turns_only_where_threads_would_wait_for_each_other() {
        assert!(have_room(1, 1) && have_room(1, 2) && have_room(8, 64) && have_room(2, 6));
        assert!(!have_room(2, 2) && !have_room(64, 64) && !have_room(2, 4));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_end_with_the_turn_and_come_back() {
        let own = |name: &str| {
            let tasks = fs::read_dir("/proc/self/task")
                .unwrap()
                .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
            tasks.filter(|comm| comm.trim() == name).count()
        };
        // Threads of OpenMP have the name of the one that they were made for.
        let name = "turn-of-a-test";
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                tch::set_num_threads(3);
                let compute = || tch::Tensor::ones([1 << 20], (tch::Kind::Float, Device::Cpu)).exp();
                // libtorch has others, too.
                let before = own(name);
                for _ in 0..2 {
                    let _ = compute();
                    assert_eq!(own(name), before + 2);
                    end_threads();
                    // The system lists a thread for a moment after it has been joined.
                    let until = Instant::now() + Duration::from_secs(10);
                    while own(name) > before && Instant::now() < until {
                        thread::yield_now();
                    }
                    assert_eq!(own(name), before);
                }
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn nobody_waits_for_a_node_without_a_network() {
        assert!(Turns::new(None).0.is_none());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Turns::by(&folder.path().join("absent/turn")).is_err());
    }
}
