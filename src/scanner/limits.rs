//! What a peer may use.

use std::time::Duration;

/// Limits of the receiver.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest PDU that a peer may send, bytes; 256 KiB.
    pub pdu_bytes: u32,
    /// Largest instance, bytes; 1 GiB.
    pub instance_bytes: u64,
    /// Associations at the same time; 32.
    pub associations: usize,
    /// An association that sends nothing for this long is aborted; 60 s.
    pub association_idle: Duration,
    /// Series that are not finished; 64.
    pub series: usize,
    /// Size of the spool, bytes; 20 GiB.
    pub spool_bytes: u64,
    /// How long the images of finished series are kept; 60 min.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pdu_bytes: 256 << 10,
            instance_bytes: 1 << 30,
            associations: 32,
            association_idle: Duration::from_secs(60),
            series: 64,
            spool_bytes: 20 << 30,
            keep: Duration::from_secs(60 * 60),
        }
    }
}
