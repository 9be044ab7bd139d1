//! All series of the spool.

use std::collections::BTreeMap;
use std::time::Duration;

use super::entry::Entry;
use crate::scanner::now_ns;

/// Most series of which the record is kept after their images are deleted.
const MOST_RECORDS: usize = 4096;

/// The series by id, and the bytes in use.
#[derive(Debug, Default)]
pub(super) struct State {
    pub series: BTreeMap<String, Entry>,
    /// Bytes of images, those that are arriving included.
    pub used: u64,
}

impl State {
    /// Takes space, and deletes the images of finished series for it, oldest first. False if there is not enough.
    pub fn take(&mut self, bytes: u64, most: u64) -> bool {
        while self.used + bytes > most {
            let Some(id) = self.oldest_finished(i64::MAX) else { return false };
            self.clear(&id);
        }
        self.used += bytes;
        true
    }

    pub fn give_back(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Number of series that are not finished.
    pub fn unfinished(&self) -> usize {
        self.series.values().filter(|entry| !entry.is_finished()).count()
    }

    /// Deletes the images of series that were finished this long ago, and very old records.
    pub fn prune(&mut self, keep: Duration) {
        let before = now_ns().saturating_sub(i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX));
        while let Some(id) = self.oldest_finished(before) {
            self.clear(&id);
        }
        let mut records: Vec<(i64, String)> = self
            .series
            .iter()
            .filter(|(_, entry)| entry.images == 0)
            .filter_map(|(id, entry)| Some((entry.record.done.as_ref()?.at_ns, id.clone())))
            .collect();
        records.sort();
        for (_, id) in records.iter().take(records.len().saturating_sub(MOST_RECORDS)) {
            if let Some(entry) = self.series.remove(id)
                && let Err(error) = std::fs::remove_dir_all(&entry.folder)
            {
                tracing::warn!("{}: {error}", entry.folder.display());
            }
        }
    }

    /// The series that was finished first, before this time, and still has images.
    fn oldest_finished(&self, before_ns: i64) -> Option<String> {
        let finished = self.series.iter().filter(|(_, entry)| entry.images > 0 && entry.is_finished());
        let finished = finished.filter_map(|(id, entry)| Some((entry.record.done.as_ref()?.at_ns, id)));
        finished.filter(|&(at, _)| at <= before_ns).min().map(|(_, id)| id.clone())
    }

    fn clear(&mut self, id: &str) {
        let Some(entry) = self.series.get_mut(id) else { return };
        self.used = self.used.saturating_sub(entry.bytes);
        let folder = entry.folder.clone();
        // What cannot be deleted is forgotten all the same, so that this ends.
        if let Err(error) = entry.clear() {
            tracing::warn!("{}: {error}", folder.display());
        }
    }
}
