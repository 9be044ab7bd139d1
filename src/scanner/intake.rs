//! The way of an instance from a peer, the watched folder or an MRD client into the spool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spool::{Claim, Incoming, Refusal, Spool, Stored};

/// The spool, which series the open associations send, and who is told about new images.
pub struct Intake {
    spool: Spool,
    /// Number of associations that have sent images of a series.
    senders: Mutex<BTreeMap<String, usize>>,
    told: Box<dyn Fn(String) + Send + Sync>,
}

impl Intake {
    /// `told` gets the id of a series whenever it has new images.
    pub fn new(spool: Spool, told: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { spool, senders: Mutex::default(), told: Box::new(told) }
    }

    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Stores a file that has arrived. Blocks until it is on disk.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn store(&self, incoming: Incoming, claim: Option<&Claim>) -> Result<Stored, Refusal> {
        let stored = self.spool.store(incoming, claim)?;
        if stored.is_new {
            (self.told)(stored.series_id.clone());
        }
        Ok(stored)
    }

    /// Whether an open association has sent images of the series.
    pub fn is_being_sent(&self, series_id: &str) -> bool {
        self.senders().contains_key(series_id)
    }

    fn senders(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The series of an association, until it ends.
pub(super) struct Sending {
    intake: Arc<Intake>,
    series: BTreeSet<String>,
}

impl Sending {
    pub fn new(intake: Arc<Intake>) -> Self {
        Self { intake, series: BTreeSet::new() }
    }

    /// The association has sent an image of the series.
    pub fn add(&mut self, series_id: &str) {
        if self.series.insert(series_id.to_owned()) {
            *self.intake.senders().entry(series_id.to_owned()).or_default() += 1;
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut senders = self.intake.senders();
        for series_id in &self.series {
            if let Some(count) = senders.get_mut(series_id) {
                *count -= 1;
                if *count == 0 {
                    senders.remove(series_id);
                }
            }
        }
    }
}
