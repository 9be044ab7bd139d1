//! Turns: one node at a time uses the cores of a machine.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use tch::Device;
use uuid::Uuid;

use super::byte_lock::{try_lock, unlock, wait_lock};
use super::threads::compute_threads;
use crate::compute::Compute;

/// Number of nodes with a network in a dataflow.
const NETWORKS: usize = 3;
/// Longest time that a dataflow waits for another one; after that, both compute at the same time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Polling interval of a waiting node: the longest time that cores are idle between two turns.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Number of lanes. The first is the usual one; the next one is used if the holder of the one before is suspended.
const LANES: u64 = 4;
/// First byte of the lanes' doors; the bytes of dataflows follow.
const DOORS: u64 = 16;
const DATAFLOWS: u64 = 64;

/// The turns in which nodes compute on the CPU of a machine: each has one thread per core, and two that compute at
/// the same time only wait for each other (decision 8). Nodes on a GPU take no turns, nor do nodes with one thread
/// or with so few that there are enough cores for all.
///
/// There are two levels. The nodes of one dataflow exclude each other strictly. The dataflows of one user take turns
/// on the machine in the order in which they ask. They wait at most [`PATIENCE`] for each other, and not at all for
/// a suspended process.
///
/// All turns are locks on single bytes of one small file per user. The kernel releases them when a process ends, so
/// nothing needs to be cleaned up.
#[derive(Debug)]
pub(super) struct Turns(Option<Places>);

/// The file, and the positions of the locks in it.
#[derive(Debug)]
struct Places {
    file: File,
    /// The byte that the nodes of the dataflow lock.
    dataflow: u64,
    patience: Duration,
}

/// A turn, which ends when this is dropped.
pub(super) struct Turn<'a>(Option<Held<'a>>);

struct Held<'a> {
    places: &'a Places,
    /// The lane of the machine turn; `None` if the wait for it was given up.
    lane: Option<u64>,
}

/// The result of waiting for a lane.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Taken,
    HolderHalted,
    TimedOut,
}

impl Turns {
    /// Turns of a node of `dataflow` whose network computes in `network`.
    pub fn new(network: Option<Compute>, dataflow: &Uuid) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let on_cpu = network.is_some_and(|compute| compute.device == Device::Cpu);
        if !on_cpu || have_room(compute_threads(), cores) {
            return Self(None);
        }
        let mut refused = Vec::new();
        for path in shared_files() {
            match Self::by(&path, dataflow, PATIENCE) {
                Ok(turns) => return turns,
                Err(error) => refused.push(format!("{}: {error}", path.display())),
            }
        }
        tracing::warn!(
            "{}; nodes of this machine compute at the same time, which is slower",
            refused.join(", ")
        );
        Self(None)
    }

    /// Turns by locks in the file `path`.
    fn by(path: &Path, dataflow: &Uuid, patience: Duration) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        // File offsets are positive 63-bit numbers.
        let dataflow = DATAFLOWS + (dataflow.as_u128() as u64 >> 2);
        if try_lock(&file, dataflow)? {
            unlock(&file, dataflow)?;
        }
        Ok(Self(Some(Places { file, dataflow, patience })))
    }

    /// Waits until no other node of the dataflow computes, and for a limited time until no other dataflow does.
    ///
    /// # Errors
    /// A file system that does not support locks.
    pub fn take(&self) -> io::Result<Turn<'_>> {
        let Some(places) = &self.0 else { return Ok(Turn(None)) };
        wait_lock(&places.file, places.dataflow)?;
        // From here on, dropping `held` releases the locks.
        let mut held = Held { places, lane: None };
        held.lane = places.take_lane()?;
        Ok(Turn(Some(held)))
    }
}

impl Places {
    /// The first lane whose holder is not suspended; `None` if that takes too long.
    fn take_lane(&self) -> io::Result<Option<u64>> {
        let deadline = Instant::now() + self.patience;
        for lane in 0..LANES {
            match self.wait_for(lane, deadline)? {
                Wait::Taken => return Ok(Some(lane)),
                Wait::HolderHalted => {}
                Wait::TimedOut => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Waits at the door of the lane, which one dataflow at a time may hold, and then for the lane itself. A
    /// dataflow that releases the lane and wants it again comes after the one at the door.
    fn wait_for(&self, lane: u64, deadline: Instant) -> io::Result<Wait> {
        let door = DOORS + lane;
        let at_door = self.poll(door, lane, deadline)?;
        if at_door != Wait::Taken {
            return Ok(at_door);
        }
        let taken = self.poll(lane, lane, deadline);
        unlock(&self.file, door)?;
        taken
    }

    /// Polls for a lock on a byte of `lane` until the deadline.
    fn poll(&self, byte: u64, lane: u64, deadline: Instant) -> io::Result<Wait> {
        loop {
            if try_lock(&self.file, byte)? {
                self.note_holder(byte);
                return Ok(Wait::Taken);
            }
            if self.is_halted(lane) || self.is_halted(byte) {
                return Ok(Wait::HolderHalted);
            }
            if Instant::now() >= deadline {
                return Ok(Wait::TimedOut);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Writes this process's id to the file, so that others can see whether it is suspended. This is only a hint:
    /// without it they wait a little longer.
    fn note_holder(&self, byte: u64) {
        let _ = self.file.write_all_at(&std::process::id().to_le_bytes(), 4 * byte);
    }

    /// Whether the process that last locked this byte is suspended (SIGSTOP, a debugger).
    fn is_halted(&self, byte: u64) -> bool {
        let mut number = [0; 4];
        self.file.read_exact_at(&mut number, 4 * byte).is_ok() && is_halted(u32::from_le_bytes(number))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.0.is_some() {
            end_threads();
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Closing the file would release the locks in any case.
        if let Some(lane) = self.lane {
            let _ = unlock(&self.places.file, lane);
        }
        let _ = unlock(&self.places.file, self.places.dataflow);
    }
}

/// Whether a process is suspended by a signal or a debugger.
fn is_halted(process: u32) -> bool {
    // The state follows the program's name, which may contain any character (proc(5)).
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// `omp_pause_resource_all`: takes a kind of pause, returns 0 on success.
type Pause = unsafe extern "C" fn(c_int) -> c_int;

/// The entry point in the OpenMP library that libtorch was built with; `None` if it is older than OpenMP 5.
static PAUSE: LazyLock<Option<Pause>> = LazyLock::new(|| {
    // SAFETY: the running program is loaded, and OpenMP 5.0, section 3.2.44, defines this signature.
    unsafe {
        libloading::os::unix::Library::this()
            .get::<Pause>(b"omp_pause_resource_all\0")
            .ok()
            .map(|symbol| *symbol)
    }
});

/// Releases the threads with which this one has computed, because idle threads spin for a while on the cores that
/// the next node needs. The next operation starts new ones.
fn end_threads() {
    const SOFT: c_int = 1;
    if let Some(pause) = *PAUSE {
        // SAFETY: no parallel region is open in this thread. libgomp ends only the threads of this one. A library
        // that ends all threads of the process finds no others, because a node computes in one thread.
        unsafe { pause(SOFT) };
    }
}

/// Whether all nodes can compute at once on separate cores.
fn have_room(threads: usize, cores: usize) -> bool {
    threads == 1 || threads.saturating_mul(NETWORKS) <= cores
}

/// A file in memory, which containers of one machine share, as dora's messages do; else in the folder for temporary
/// files.
fn shared_files() -> [PathBuf; 2] {
    let user = fs::metadata("/proc/self").map_or(0, |process| process.uid());
    [PathBuf::from("/dev/shm"), std::env::temp_dir()].map(|folder| folder.join(format!("spsam-{user}.turns")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Turns of the dataflow with this id.
    fn turns(path: &Path, dataflow: u128, patience: Duration) -> Turns {
        Turns::by(path, &Uuid::from_u128(dataflow << 64 | dataflow << 8), patience).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_node_of_a_dataflow_computes_at_a_time_also_when_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turns");
        let [first, second, replaced] = [(); 3].map(|()| turns(&path, 1, Duration::ZERO));
        drop(replaced);
        let nodes = [first, second, turns(&path, 1, Duration::ZERO)];
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
    fn dataflows_take_turns_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turns");
        let (computing, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let taken = [(); 3].map(|()| AtomicUsize::new(0));
        thread::scope(|scope| {
            for (dataflow, taken) in (1..).zip(&taken) {
                let turns = turns(&path, dataflow, LONG);
                let (computing, stop) = (&computing, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let _turn = turns.take().unwrap();
                        assert_eq!(computing.fetch_add(1, Ordering::SeqCst), 0);
                        thread::sleep(Duration::from_millis(5));
                        computing.fetch_sub(1, Ordering::SeqCst);
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::SeqCst);
        });
        let counts = taken.map(|taken| taken.load(Ordering::SeqCst));
        let [least, most] = [counts.iter().min().unwrap(), counts.iter().max().unwrap()];
        assert!(*least > 5 && most < &(3 * least), "{counts:?}");
    }

    #[test]
    fn a_dataflow_with_a_long_window_delays_others_for_a_while_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turns");
        let (long, other) = (turns(&path, 1, LONG), turns(&path, 2, Duration::from_millis(200)));
        let _turn = long.take().unwrap();
        for _ in 0..2 {
            let started = Instant::now();
            drop(other.take().unwrap());
            let waited = started.elapsed();
            assert!(waited >= Duration::from_millis(200) && waited < Duration::from_secs(5), "{waited:?}");
        }
    }

    /// Two other dataflows still exclude each other.
    #[test]
    fn a_halted_process_in_its_turn_delays_no_other_dataflow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turns");
        let halted = turns(&path, 1, LONG);
        let turn = halted.take().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let number = child.id();
        // Replaces the id of this process.
        halted.0.as_ref().unwrap().file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        assert!(Command::new("kill").arg("-STOP").arg(number.to_string()).status().unwrap().success());
        while !is_halted(number) {
            thread::yield_now();
        }
        let started = Instant::now();
        let (second, third) = (turns(&path, 2, LONG), turns(&path, 3, Duration::from_millis(50)));
        let of_second = second.take().unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(third.take().unwrap().0.as_ref().unwrap().lane.is_none(), "the second is computing");
        drop(of_second);
        assert!(third.take().unwrap().0.as_ref().unwrap().lane.is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        drop(turn);
        assert_eq!(third.take().unwrap().0.as_ref().unwrap().lane, Some(0));
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
        // OpenMP threads inherit the name of the thread that created them.
        let name = "turn-of-a-test";
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                tch::set_num_threads(3);
                let compute = || tch::Tensor::ones([1 << 20], (tch::Kind::Float, Device::Cpu)).exp();
                // libtorch has other threads as well.
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
        assert!(Turns::new(None, &Uuid::nil()).0.is_none());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Turns::by(&folder.path().join("absent/turns"), &Uuid::nil(), LONG).is_err());
    }
}
