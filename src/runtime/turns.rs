//! The cores of a machine, used by one node at a time.

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
use super::startup::compute_threads;
use crate::compute::Compute;

/// Nodes of a dataflow that have a network.
const NETWORKS: usize = 3;
/// A dataflow waits no longer for another one; then both compute at the same time.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a waiting node looks: the longest that the cores are idle between two turns.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Machine turns. The first is the usual one; the next is used where the holder of the one before is halted.
const LANES: u64 = 4;
/// First byte for the doors of the lanes, and for dataflows.
const DOORS: u64 = 16;
const DATAFLOWS: u64 = 64;

/// The turns in which nodes compute on the CPU of a machine: each has a thread a core, and two that compute together only wait
/// for each other (decision 8). Nodes on a GPU compute whenever they like, and so do nodes with one thread or with so few that
/// there are cores for all.
///
/// There are two levels. The nodes of one dataflow exclude each other strictly. Dataflows of one user take turns on the
/// machine in the order in which they ask, but wait at most [`PATIENCE`] for each other, and not at all for a halted process.
///
/// All turns are locks on single bytes of one small file of the user. The kernel takes them back when a process ends, so that
/// there is nothing to clean up.
#[derive(Debug)]
pub(super) struct Turns(Option<Places>);

/// The file, and where in it the locks are.
#[derive(Debug)]
struct Places {
    file: File,
    /// Byte of the dataflow.
    dataflow: u64,
    patience: Duration,
}

/// A turn, until it is dropped.
pub(super) struct Turn<'a>(Option<Held<'a>>);

struct Held<'a> {
    places: &'a Places,
    /// The machine turn; `None` where the wait for it was given up.
    lane: Option<u64>,
}

/// What waiting for a lane led to.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Taken,
    HolderHalted,
    TimedOut,
}

impl Turns {
    /// Of a node of `dataflow` whose network computes in `network`.
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

    /// By locks in the file `path`.
    fn by(path: &Path, dataflow: &Uuid, patience: Duration) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        // Offsets in a file are positive and 63 bits long.
        let dataflow = DATAFLOWS + (dataflow.as_u128() as u64 >> 2);
        if try_lock(&file, dataflow)? {
            unlock(&file, dataflow)?;
        }
        Ok(Self(Some(Places { file, dataflow, patience })))
    }

    /// Waits until no other node of the dataflow computes, and for a while until no other dataflow does.
    ///
    /// # Errors
    /// A file system that no longer locks.
    pub fn take(&self) -> io::Result<Turn<'_>> {
        let Some(places) = &self.0 else { return Ok(Turn(None)) };
        wait_lock(&places.file, places.dataflow)?;
        // From here on, dropping gives back what has been taken.
        let mut held = Held { places, lane: None };
        held.lane = places.take_lane()?;
        Ok(Turn(Some(held)))
    }
}

impl Places {
    /// The first lane whose holder is not halted; `None` where that takes too long.
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

    /// Waits at the door of the lane, which one dataflow at a time may hold, and then for the lane: whoever gives the lane back
    /// and wants it again stands behind the one at the door.
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

    /// Tries to lock a byte of `lane` until the deadline.
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

    /// Leaves this process's number for others to see whether it is halted. It is a hint: without it they wait a bit longer.
    fn note_holder(&self, byte: u64) {
        let _ = self.file.write_all_at(&std::process::id().to_le_bytes(), 4 * byte);
    }

    /// Whether the process that took this byte last is halted (SIGSTOP, a debugger).
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
        // Closing the file at the latest lets go of them.
        if let Some(lane) = self.lane {
            let _ = unlock(&self.places.file, lane);
        }
        let _ = unlock(&self.places.file, self.places.dataflow);
    }
}

/// Whether a process is halted by a signal or a debugger.
fn is_halted(process: u32) -> bool {
    // The state follows the program's name, which may hold anything (proc(5)).
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
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

/// In memory that containers of one machine share, as dora's messages do; else in the folder for temporary files.
fn shared_files() -> [PathBuf; 2] {
    let user = fs::metadata("/proc/self").map_or(0, |process| process.uid());
    [PathBuf::from("/dev/shm"), std::env::temp_dir()].map(|folder| folder.join(format!("spsam-{user}.turns")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Turns of the dataflow with this number.
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
        // In the place of this process.
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
        assert!(Turns::new(None, &Uuid::nil()).0.is_none());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Turns::by(&folder.path().join("absent/turns"), &Uuid::nil(), LONG).is_err());
    }
}
