//! Runs work on libtorch's own threads, because two thread pools on the same cores would compete.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `GOMP_parallel` of libgomp. Arguments: function, its argument, number of threads (0 = default), flags.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

/// libgomp's entry point if libtorch was built with libgomp, else `None`.
static PARALLEL: LazyLock<Option<Parallel>> = LazyLock::new(|| {
    // SAFETY: the running program is loaded, and the symbol has had this signature since GCC 4.9.
    unsafe {
        libloading::os::unix::Library::this().get::<Parallel>(b"GOMP_parallel\0").ok().map(|symbol| *symbol)
    }
});

struct Work<'a> {
    next: AtomicUsize,
    count: usize,
    /// Takes indices from the iterator until there are none left.
    run: &'a (dyn Fn(&mut dyn Iterator<Item = usize>) + Sync),
    panicked: AtomicBool,
}

impl Work<'_> {
    fn take_part(&self) {
        let mut indices = std::iter::from_fn(|| {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            (index < self.count).then_some(index)
        });
        if catch_unwind(AssertUnwindSafe(|| (self.run)(&mut indices))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

extern "C" fn enter(work: *mut c_void) {
    // SAFETY: `for_each` passes a `Work` that outlives all threads.
    unsafe { &*work.cast::<Work>() }.take_part();
}

/// Calls `work` once for each index below `count`, on all threads. Each thread gets its own working memory from
/// `scratch`.
///
/// # Panics
/// If `work` panics.
pub(super) fn for_each<S>(count: usize, scratch: impl Fn() -> S + Sync, work: impl Fn(&mut S, usize) + Sync) {
    let run = |indices: &mut dyn Iterator<Item = usize>| {
        let mut memory = scratch();
        indices.for_each(|index| work(&mut memory, index));
    };
    let shared = Work { next: AtomicUsize::new(0), count, run: &run, panicked: AtomicBool::new(false) };
    let threads = u32::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    match *PARALLEL {
        // SAFETY: `enter` expects a `Work`, and this one outlives the call.
        Some(parallel) if threads > 1 => unsafe {
            parallel(enter, std::ptr::from_ref(&shared).cast_mut().cast(), threads, 0);
        },
        _ => std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| shared.take_part());
            }
            shared.take_part();
        }),
    }
    assert!(!shared.panicked.into_inner(), "a thread of a kernel panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_index_is_worked_on_once() {
        let seen = Mutex::new(Vec::new());
        for_each(100, Vec::new, |own: &mut Vec<usize>, index| {
            own.push(index);
            seen.lock().unwrap().push(index);
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "of a kernel")]
    fn a_panic_on_any_thread_is_passed_on() {
        for_each(10, || (), |(), index| assert!(index != 7));
    }
}
