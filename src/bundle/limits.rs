//! What messages can carry.

/// Largest payload of a message: dora carries 64 MiB on every path, including its own metadata and Arrow's.
pub const MAX_MESSAGE_BYTES: usize = 60 << 20;
/// Slices of a window that messages can count.
pub const MAX_DEPTH: usize = 4096;
/// Most bytes of a window on an edge: 136 slices that are as large as a message can be. Limits the memory that a
/// hostile message can make a node allocate.
pub const MAX_WINDOW_BYTES: usize = 8 << 30;
