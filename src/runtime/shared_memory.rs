//! How much shared memory a dataflow may use on this machine. zenoh, on which dora is built, fills and locks its
//! pools when it creates them. Pools that do not fit into `/dev/shm` or may not be locked make nodes lose messages
//! or die.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use serde_yaml::Value;

/// Folder of zenoh's segments.
const FOLDER: &str = "/dev/shm";
/// Memory of every node besides its pool: the table of its messages, and small segments.
const BESIDE_POOL: u64 = 2 << 20;
/// Smaller pools (sum over the dataflow) are of no use.
const SMALLEST: u64 = 12 << 20;
/// dora's default pool size.
const DEFAULT_POOL: u64 = 8 << 20;
/// `CAP_IPC_LOCK` (capabilities(7)): the process may lock unlimited memory.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// The fraction of each requested pool that a dataflow gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SharedMemory {
    /// Pools are created with this fraction of the requested size: 1, or less if there is little memory.
    Share(f64),
    /// No pools: messages go through dora's daemon, which is slower.
    Off,
}

/// The memory available on this machine, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free memory in `/dev/shm`; 0 if it cannot be written to.
    pub free: u64,
    /// How much a process may lock.
    pub lockable: u64,
}

impl Room {
    /// The present values for this machine and process.
    pub fn here() -> Self {
        let folder = Path::new(FOLDER);
        let is_writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
        let free = match rustix::fs::statvfs(folder) {
            Ok(system) if is_writable => system.f_bavail.saturating_mul(system.f_frsize),
            _ => 0,
        };
        let lockable = if locks_without_limit() {
            u64::MAX
        } else {
            getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
        };
        Self { free, lockable }
    }
}

impl SharedMemory {
    /// For a dataflow whose nodes request `pools`, bytes each.
    pub fn for_pools(pools: &[u64], room: Room) -> Self {
        let wanted: u64 = pools.iter().sum();
        let beside = BESIDE_POOL * pools.len() as u64;
        if wanted + beside <= room.free.min(room.lockable) {
            return Self::Share(1.0);
        }
        // Half of it is left to others. A process also locks the pools that it reads.
        match (room.free / 2).min(room.lockable).checked_sub(beside) {
            Some(rest) if rest >= SMALLEST => Self::Share((rest as f64 / wanted as f64).min(1.0)),
            _ => Self::Off,
        }
    }

    /// For a dataflow, given its descriptor.
    pub fn for_dataflow(descriptor: &Value, room: Room) -> Self {
        Self::for_pools(&pools(descriptor), room)
    }

    /// The size of a pool for which `wanted` bytes are requested.
    pub fn pool(self, wanted: u64) -> u64 {
        match self {
            Self::Share(share) => (wanted as f64 * share) as u64,
            Self::Off => 0,
        }
    }

    /// A line for the user if the pools differ from the dataflow's request.
    pub fn remark(self, room: Room) -> Option<String> {
        let Room { free, lockable } = room;
        let limits = match lockable {
            u64::MAX => format!("{} free in {FOLDER}", size(free)),
            _ => format!("{} free in {FOLDER}, {} may be locked (ulimit -l)", size(free), size(lockable)),
        };
        match self {
            Self::Share(share) if share < 1.0 => Some(format!("{limits}: nodes share smaller pools")),
            Self::Share(_) => None,
            Self::Off => Some(format!("{limits}: messages go through dora's daemon, which is slower")),
        }
    }
}

/// The pool sizes that the nodes of a dataflow request, bytes.
fn pools(descriptor: &Value) -> Vec<u64> {
    let nodes = descriptor.get("nodes").and_then(Value::as_sequence);
    let wanted = |node: &Value| node.get("shared_memory_pool_size").and_then(bytes).unwrap_or(DEFAULT_POOL);
    nodes.into_iter().flatten().map(wanted).collect()
}

/// A size in dora's notation: bytes, or a number with a unit.
fn bytes(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => dora_message::config::parse_byte_count(text).ok(),
        number => number.as_u64(),
    }
}

fn locks_without_limit() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & CAP_IPC_LOCK != 0)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} kB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn infer() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dataflows/infer.yml");
        serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn with(free: u64) -> Room {
        Room { free, lockable: u64::MAX }
    }

    #[test]
    fn pools_are_read_in_every_spelling_of_dora() {
        let descriptor = "nodes: [{id: a, shared_memory_pool_size: 64MB}, {id: b, shared_memory_pool_size: 1024}, {id: c}]";
        assert_eq!(pools(&serde_yaml::from_str(descriptor).unwrap()), [64 * MB, 1024, DEFAULT_POOL]);
    }

    #[test]
    fn pools_are_as_asked_for_where_there_is_room_and_smaller_where_there_is_little() {
        let infer = infer();
        assert_eq!(SharedMemory::for_dataflow(&infer, with(4096 * MB)), SharedMemory::Share(1.0));
        let small = SharedMemory::for_dataflow(&infer, with(64 * MB));
        let total: u64 = pools(&infer).into_iter().map(|pool| small.pool(pool)).sum();
        assert!(total >= SMALLEST && total + 6 * BESIDE_POOL <= 64 * MB / 2, "{total}");
        assert!(small.remark(with(64 * MB)).unwrap().contains("64 MB free in /dev/shm"));
    }

    #[test]
    fn without_room_or_the_right_to_lock_it_there_is_no_shared_memory() {
        let infer = infer();
        for room in [with(8 * MB), with(4096), with(0), Room { free: 4096 * MB, lockable: 8 * MB }] {
            assert_eq!(SharedMemory::for_dataflow(&infer, room), SharedMemory::Off, "{room:?}");
            assert_eq!(SharedMemory::Off.pool(64 * MB), 0);
        }
        let remark = SharedMemory::Off.remark(with(4096)).unwrap();
        assert!(remark.contains("4 kB free in /dev/shm"), "{remark}");
    }
}
