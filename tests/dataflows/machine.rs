//! How many dataflows run at once. Most of the time of a small one is the start of its processes, so several share the
//! machine; tests that need it for themselves (another load on purpose, dora's own ports) take all places.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// Places on any machine: memory for a dataflow of six processes each.
const MOST_PLACES: usize = 4;

struct Machine {
    places: usize,
    taken: Mutex<usize>,
    changed: Condvar,
}

static MACHINE: Machine = Machine { places: MOST_PLACES, taken: Mutex::new(0), changed: Condvar::new() };

/// The right to run dataflows, until it is dropped.
pub struct Place(usize);

/// A place beside others: two on two cores.
pub fn share() -> Place {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    take(MACHINE.places / cores.clamp(2, MACHINE.places))
}

/// All places.
pub fn whole() -> Place {
    take(MACHINE.places)
}

fn take(count: usize) -> Place {
    // A test that fails must not fail the others.
    let mut taken = MACHINE.taken.lock().unwrap_or_else(PoisonError::into_inner);
    while *taken + count > MACHINE.places {
        taken = MACHINE.changed.wait(taken).unwrap_or_else(PoisonError::into_inner);
    }
    *taken += count;
    Place(count)
}

impl Drop for Place {
    fn drop(&mut self) {
        *MACHINE.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        MACHINE.changed.notify_all();
    }
}
