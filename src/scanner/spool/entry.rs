//! A series in the spool.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::record::{Instance, Record};
use crate::dicom::Images;

/// Most images that a count in a header may announce.
const MOST_EXPECTED: i64 = 100_000;

/// A series.
#[derive(Debug)]
pub(super) struct Entry {
    pub folder: PathBuf,
    pub record: Record,
    /// In the order of arrival.
    instances: Vec<Instance>,
    /// Number of images before each instance.
    firsts: Vec<usize>,
    /// Hashes of the SOP Instance UIDs.
    uids: BTreeSet<String>,
    pub images: usize,
    pub bytes: u64,
    expected: Expected,
    next_number: u64,
}

/// The number of images that headers announce.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    /// No image has come yet.
    NotKnown,
    /// All say the same, of the same acquisition.
    Known(i64, Option<f64>),
    /// Some say nothing, or something else.
    None,
}

impl Entry {
    /// A new series.
    pub fn new(folder: PathBuf, record: Record) -> Self {
        Self {
            folder,
            record,
            instances: Vec::new(),
            firsts: Vec::new(),
            uids: BTreeSet::new(),
            images: 0,
            bytes: 0,
            expected: Expected::NotKnown,
            next_number: 0,
        }
    }

    /// A series that an earlier process has left in its folder.
    ///
    /// # Errors
    /// A folder or record that cannot be read.
    pub fn recover(folder: &Path) -> io::Result<Self> {
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = Record::read(folder)?.unwrap_or_else(|| Record { name: id, ..Record::default() });
        let mut entry = Self::new(folder.into(), record);
        let mut instances = Vec::new();
        for file in fs::read_dir(folder)? {
            let file = file?;
            instances.extend(Instance::of_file(file.path(), file.metadata()?.len()));
        }
        instances.sort_by_key(|instance| instance.number);
        instances.into_iter().for_each(|instance| entry.add(instance));
        if entry.images > 0 {
            entry.expected = Expected::None; // known only to the process that has read the headers
        }
        Ok(entry)
    }

    /// Whether no image was ever stored.
    pub fn is_new(&self) -> bool {
        self.images == 0 && self.record.done.is_none()
    }

    /// Whether the loader is done with all images.
    pub fn is_finished(&self) -> bool {
        self.record.done.is_some() && self.record.closed.is_none_or(|closed| self.images <= closed)
    }

    pub fn has(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    pub fn add(&mut self, instance: Instance) {
        self.next_number = self.next_number.max(instance.number + 1);
        self.firsts.push(self.images);
        self.images += instance.images;
        self.bytes += instance.bytes;
        self.uids.insert(instance.uid.clone());
        self.instances.push(instance);
    }

    /// Takes the count in an image's header into account.
    pub fn expect(&mut self, images: &Images) {
        let acquisition = images.placement(0).ok().and_then(|placement| placement.kind.acquisition);
        let count = images.expected.filter(|count| (2..=MOST_EXPECTED).contains(count));
        self.expected = match (self.expected, count) {
            (Expected::NotKnown, Some(count)) => Expected::Known(count, acquisition),
            (known @ Expected::Known(before, of), Some(count)) if (before, of) == (count, acquisition) => {
                known
            }
            _ => Expected::None,
        };
    }

    /// Number of images, if the headers announce one that is not refuted.
    pub fn expected(&self) -> Option<i64> {
        match self.expected {
            Expected::Known(count, _) if count >= self.images as i64 => Some(count),
            _ => None,
        }
    }

    /// The instance of an image, and its place in it.
    pub fn image(&self, index: usize) -> Option<(&Instance, usize)> {
        let at = self.firsts.partition_point(|&first| first <= index).checked_sub(1)?;
        let instance = self.instances.get(at)?;
        let place = index - self.firsts[at];
        (place < instance.images).then_some((instance, place))
    }

    /// Deletes the images. The record stays, so that a late image gets a new revision.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn clear(&mut self) -> io::Result<()> {
        self.record.closed = Some(0);
        self.record.is_deleted = true;
        self.record.write(&self.folder)?;
        let instances = std::mem::take(&mut self.instances);
        *self = Self { next_number: self.next_number, ..Self::new(self.folder.clone(), self.record.clone()) };
        instances.iter().try_for_each(|instance| fs::remove_file(&instance.path))
    }
}
