//! The files of all series that are not finished, and of those that were finished lately.
//!
//! ```text
//! <spool>/incoming/                                     files that are arriving
//! <spool>/<series id>/series.json                       revision, end, done
//! <spool>/<series id>/<number>_<uid>_<time>_<images>.dcm  in the order of arrival
//! ```
//!
//! A file gets its name when it is on disk, and only then its peer is told so. Another process finds everything again.

mod entry;
mod incoming;
mod look;
mod record;
mod refusal;
mod state;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use incoming::Incoming;
pub use look::{spool_folder, spooled_images};
pub use record::Record;
pub use refusal::{Refusal, Status};

use super::limits::Limits;
use super::now_ns;
use crate::bundle::MAX_MESSAGE_BYTES;
use crate::dicom::{DicomError, Images};
use entry::Entry;
pub(super) use record::hashed;
use record::{Done, Instance, is_hash};
use state::State;

const INCOMING: &str = "incoming";

/// What the command of a C-STORE says about its data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub class_uid: String,
    pub instance_uid: String,
}

/// An instance that is in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub series_id: String,
    /// False if it was there before.
    pub is_new: bool,
}

/// Where an image lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    pub path: PathBuf,
    /// Place in its file, from 0.
    pub image: usize,
    /// When the file arrived, nanoseconds since 1970.
    pub received_ns: i64,
}

/// The state of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesState {
    pub record: Record,
    pub images: usize,
    /// Number of images of the complete series, if the headers announce it.
    pub expected: Option<i64>,
}

/// The spool's folder, for one process.
pub struct Spool {
    store: Arc<Store>,
    /// Held while the process lives.
    _lock: File,
}

struct Store {
    folder: PathBuf,
    limits: Limits,
    state: Mutex<State>,
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a folder that only this user can read: it will hold names of patients. An existing one stays as it is.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

impl Spool {
    /// Opens the folder, made if necessary, with what an earlier process has left.
    ///
    /// # Errors
    /// A folder that cannot be read or written to, or that another process uses.
    pub fn open(folder: &Path, limits: Limits) -> io::Result<Self> {
        make_private(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another process uses this spool"),
            TryLockError::Error(error) => error,
        })?;
        let incoming = folder.join(INCOMING);
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?; // never acknowledged
        }
        fs::create_dir(&incoming)?;
        let mut state = State::default();
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_hash(&name) {
                let mut entry = Entry::recover(&path)?;
                if entry.is_new() {
                    fs::remove_dir_all(&path)?; // its first image was not stored
                    continue;
                }
                if entry.record.is_deleted && entry.images > 0 {
                    entry.clear()?; // its deletion was interrupted
                }
                state.used += entry.bytes;
                state.series.insert(name, entry);
            }
        }
        let store = Store { folder: folder.into(), limits, state: Mutex::new(state) };
        Ok(Self { store: Arc::new(store), _lock: lock })
    }

    /// A file to receive into.
    ///
    /// # Errors
    /// [`Status::OutOfResources`].
    pub fn begin(&self) -> Result<Incoming, Refusal> {
        let folder = self.store.folder.join(INCOMING);
        Incoming::new(&folder, self.store.clone()).map_err(|error| Refusal::no_space(&error))
    }

    /// Checks a file and puts it on disk. An instance that is there already is not stored again.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn store(&self, mut incoming: Incoming, claim: Option<&Claim>) -> Result<Stored, Refusal> {
        let received_ns = now_ns();
        let path = incoming.complete().map_err(|error| Refusal::no_space(&error))?;
        let images = usable(path)?;
        let is_other =
            |claim: &&Claim| claim.class_uid != images.class_uid || claim.instance_uid != images.instance_uid;
        if claim.filter(is_other).is_some() {
            let reason = "the data set is another instance or class than its command says";
            return Err(Refusal::new(Status::DataSetMismatch, reason));
        }
        let (series_id, uid) = (hashed(&images.series_uid), hashed(&images.instance_uid));
        if self.has(&series_id, &uid) {
            return Ok(Stored { series_id, is_new: false });
        }
        incoming.sync().map_err(|error| Refusal::no_space(&error))?;
        let is_new = self.name(incoming, &images, &series_id, &uid, received_ns)?;
        Ok(Stored { series_id, is_new })
    }

    fn has(&self, series_id: &str, uid: &str) -> bool {
        self.store.state().series.get(series_id).is_some_and(|entry| entry.has(uid))
    }

    /// Puts a file into the folder of its series. False if it has come twice at the same time.
    fn name(
        &self,
        mut incoming: Incoming,
        images: &Images,
        series_id: &str,
        uid: &str,
        received_ns: i64,
    ) -> Result<bool, Refusal> {
        // Released before `incoming`, which takes it when it disappears.
        let mut state = self.store.state();
        if !state.series.contains_key(series_id) {
            let most = self.store.limits.series;
            if state.unfinished() >= most {
                return Err(Refusal::new(
                    Status::OutOfResources,
                    format!("there are {most} unfinished series already"),
                ));
            }
            let entry = self.new_series(series_id, images).map_err(|error| Refusal::no_space(&error))?;
            state.series.insert(series_id.to_owned(), entry);
        }
        let Some(entry) = state.series.get_mut(series_id) else { return Ok(false) };
        if entry.has(uid) {
            return Ok(false);
        }
        if entry.record.is_deleted {
            entry.record.is_deleted = false;
            entry.record.write(&entry.folder).map_err(|error| Refusal::no_space(&error))?;
        }
        let number = entry.next_number();
        let path = entry.folder.join(Instance::name(number, uid, received_ns, images.count()));
        let bytes = incoming.bytes();
        if let Err(error) = place(&mut incoming, &path, &entry.folder) {
            if entry.is_new() {
                let folder = entry.folder.clone();
                state.series.remove(series_id);
                let _ = fs::remove_dir_all(folder); // an empty folder is removed at the next start, too
            }
            return Err(Refusal::no_space(&error));
        }
        entry.expect(images);
        entry.add(Instance { path, number, uid: uid.to_owned(), received_ns, images: images.count(), bytes });
        Ok(true)
    }

    fn new_series(&self, series_id: &str, images: &Images) -> io::Result<Entry> {
        let folder = self.store.folder.join(series_id);
        fs::create_dir_all(&folder)?;
        let record = Record { name: case_name(series_id, images), ..Record::default() };
        record.write(&folder)?;
        File::open(&self.store.folder)?.sync_all()?;
        Ok(Entry::new(folder, record))
    }

    /// The series that are not finished.
    pub fn unfinished(&self) -> Vec<String> {
        let state = self.store.state();
        let unfinished = state.series.iter().filter(|(_, entry)| !entry.is_finished());
        unfinished.map(|(id, _)| id.clone()).collect()
    }

    /// The state of a series.
    pub fn series(&self, series_id: &str) -> Option<SeriesState> {
        let state = self.store.state();
        let entry = state.series.get(series_id)?;
        Some(SeriesState { record: entry.record.clone(), images: entry.images, expected: entry.expected() })
    }

    /// Where an image of a series lies.
    pub fn image(&self, series_id: &str, index: usize) -> Option<ImageFile> {
        let state = self.store.state();
        let (instance, image) = state.series.get(series_id)?.image(index)?;
        Some(ImageFile { path: instance.path.clone(), image, received_ns: instance.received_ns })
    }

    /// The series has ended with this many images.
    ///
    /// # Errors
    /// A folder that cannot be written to; the series has ended for this process all the same.
    pub fn close(&self, series_id: &str, images: usize) -> io::Result<()> {
        self.change(series_id, |record, _| record.closed = Some(images))
    }

    /// A late image has come: the series begins again with the next revision.
    ///
    /// # Errors
    /// As [`Spool::close`].
    pub fn reopen(&self, series_id: &str) -> io::Result<()> {
        self.change(series_id, |record, _| {
            record.revision += 1;
            record.closed = None;
            record.done = None;
        })
    }

    /// The loader is done with the series.
    ///
    /// # Errors
    /// As [`Spool::close`].
    pub fn finish(&self, series_id: &str, error: Option<String>) -> io::Result<()> {
        self.change(series_id, |record, images| {
            record.closed.get_or_insert(images);
            record.done = Some(Done { at_ns: now_ns(), error });
        })
    }

    fn change(&self, series_id: &str, change: impl FnOnce(&mut Record, usize)) -> io::Result<()> {
        let mut state = self.store.state();
        let Some(entry) = state.series.get_mut(series_id) else { return Ok(()) };
        change(&mut entry.record, entry.images);
        entry.record.write(&entry.folder)
    }

    /// Deletes images of series that were finished long ago.
    pub fn prune(&self) {
        self.store.state().prune(self.store.limits.keep);
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.store.limits
    }

    pub(super) fn folder(&self) -> &Path {
        &self.store.folder
    }
}

/// Gives a file its name, so that it is there after a crash, too.
fn place(incoming: &mut Incoming, path: &Path, folder: &Path) -> io::Result<()> {
    incoming.persist(path)?;
    File::open(folder)?.sync_all()
}

/// The images of a file, if they can be sent on.
fn usable(path: &Path) -> Result<Images, Refusal> {
    let refused = |error: DicomError| match error {
        DicomError::Io { source, .. } => Refusal::no_space(&source),
        DicomError::File { reason, .. } => Refusal::new(Status::CannotUnderstand, reason),
        other => Refusal::new(Status::CannotUnderstand, other.to_string()),
    };
    let mut images = Images::open(path).map_err(refused)?;
    let placement = images.placement(0).map_err(refused)?;
    let bytes = placement.rows * placement.columns * size_of::<f32>();
    if bytes > MAX_MESSAGE_BYTES {
        let reason =
            format!("images of {} × {} pixels do not fit into a message", placement.rows, placement.columns);
        return Err(Refusal::new(Status::CannotUnderstand, reason));
    }
    // Pixels that are not compressed need only be there, which their length has shown.
    if images.is_compressed() {
        images.pixels(0).map_err(refused)?;
    }
    Ok(images)
}

/// Name of the case of a series: nothing in it comes from a patient.
fn case_name(series_id: &str, images: &Images) -> String {
    let modality: String = images.modality.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let number = images.series_number.filter(|&number| number >= 0).map(|number| number.to_string());
    let parts = [Some(modality).filter(|text| !text.is_empty()), number, Some(series_id.to_owned())];
    parts.into_iter().flatten().collect::<Vec<_>>().join("_")
}
