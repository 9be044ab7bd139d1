//! Threads and memory of libtorch: what every node that computes does at its start.

use std::env;
use std::process::ExitCode;
use std::sync::OnceLock;

use eyre::Result;

use super::startup::{run_node, start_log};
use super::variables::number;

/// Sets up the log (stderr, `RUST_LOG`), the number of threads (`SPSAM_THREADS`) and the allocator. Must be called
/// first in `main`; [`node_main`] does so.
///
/// # Errors
/// `SPSAM_THREADS` that is not a number.
pub fn prepare() -> Result<()> {
    keep_memory();
    start_log();
    set_threads()
}

/// `SPSAM_THREADS` threads for libtorch and for rayon. With 0, each gets one per core (libtorch: `OMP_NUM_THREADS`,
/// if set).
fn set_threads() -> Result<()> {
    let threads = number("SPSAM_THREADS", 0)?;
    if threads > 0 {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        if env::var_os("RAYON_NUM_THREADS").is_none() {
            // Fails if the pool is already running, as in a second call.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
    }
    Ok(())
}

/// Number of libtorch's threads in the node's compute thread.
static LIBTORCH_THREADS: OnceLock<i32> = OnceLock::new();

/// Limits libtorch to one thread in all other threads. libgomp keeps a pool for every thread that has computed in
/// parallel. As soon as all pools have more threads than there are cores, idle threads sleep at once, which slows
/// the many small operations of a network down.
fn compute_elsewhere() {
    LIBTORCH_THREADS.get_or_init(tch::get_num_threads);
    tch::set_num_threads(1);
}

/// Gives libtorch its threads; called in the node's compute thread.
pub(super) fn compute_here() {
    tch::set_num_threads(*LIBTORCH_THREADS.get_or_init(tch::get_num_threads));
}

/// The number of threads that [`compute_here`] sets.
pub(super) fn compute_threads() -> usize {
    usize::try_from(*LIBTORCH_THREADS.get_or_init(tch::get_num_threads)).unwrap_or(1)
}

/// Keeps memory that libtorch frees, for its next tensor. By default glibc returns blocks of megabytes to the
/// system, which must clear each page again when the next tensor uses it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_memory() {
    const UP_TO: libc::c_int = 1 << 30;
    const STEP: libc::c_int = 64 << 20;
    // SAFETY: this only sets parameters of the allocator. Other arenas than the first cannot hold large blocks,
    // hence one arena.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, UP_TO);
        libc::mallopt(libc::M_TRIM_THRESHOLD, UP_TO);
        libc::mallopt(libc::M_TOP_PAD, STEP);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory() {}

/// Runs a node: installs the transport overlay, calls [`prepare`], and logs the peak memory. An error becomes one
/// line on stderr, a notice for the command that started the dataflow, and exit code 1.
///
/// The exit code is 0 if dora would restart the node in vain, because it failed by its settings or files. dora then
/// ends the dataflow as failed at once, because the node has not joined it.
pub fn node_main(main: impl FnOnce() -> Result<()>) -> ExitCode {
    run_node(|| {
        prepare()?;
        compute_elsewhere();
        main()
    })
}
