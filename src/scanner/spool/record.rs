//! The state of a series on disk, in `series.json` of its folder, and the names of its images.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::write_atomically;

const FILE: &str = "series.json";

/// The state of a series that its images do not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the case, fit for a file name.
    pub name: String,
    /// How often the series was opened again after its end.
    pub revision: i64,
    /// Number of images when the series ended; 0 if they are deleted.
    pub closed: Option<usize>,
    /// Whether the images are deleted, or about to be.
    #[serde(default)]
    pub is_deleted: bool,
    /// When and how the loader was done with the series.
    pub done: Option<Done>,
}

/// The end of a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Nanoseconds since 1970.
    pub at_ns: i64,
    /// Why it failed.
    pub error: Option<String>,
}

impl Record {
    /// Reads the record of a folder; `None` if it has none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record of a folder.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        write_atomically(&folder.join(FILE), |file| file.write_all(&json))
    }
}

/// A file of the spool, described by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub path: PathBuf,
    /// Place in the order of arrival.
    pub number: u64,
    /// Hash of the SOP Instance UID.
    pub uid: String,
    pub received_ns: i64,
    /// Number of its images.
    pub images: usize,
    pub bytes: u64,
}

impl Instance {
    /// Name of the file.
    pub fn name(number: u64, uid: &str, received_ns: i64, images: usize) -> String {
        format!("{number:08}_{uid}_{received_ns}_{images}.dcm")
    }

    /// The instance in a file; `None` for other files.
    pub fn of_file(path: PathBuf, bytes: u64) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".dcm")?;
        let [number, uid, received_ns, images] = name.split('_').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            number: number.parse().ok()?,
            uid: uid.to_owned(),
            received_ns: received_ns.parse().ok()?,
            images: images.parse().ok().filter(|&images| images > 0)?,
            path,
            bytes,
        })
    }
}

/// 16 hexadecimal digits that stand for a UID.
pub(in crate::scanner) fn hashed(uid: impl AsRef<[u8]>) -> String {
    Sha256::digest(uid)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a folder's name is such a hash.
pub(super) fn is_hash(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_everything_about_an_instance() {
        let uid = hashed("1.2.840.1");
        assert!(is_hash(&uid) && !is_hash("incoming") && !is_hash(&uid[1..]));
        let path = PathBuf::from(Instance::name(7, &uid, 1_700_000_000_000_000_001, 3));
        let instance = Instance::of_file(path.clone(), 99).unwrap();
        assert_eq!(
            instance,
            Instance { path, number: 7, uid, received_ns: 1_700_000_000_000_000_001, images: 3, bytes: 99 }
        );
        for other in ["series.json", "1_2_3.dcm", "x_0_1_1.dcm", "1_0_1_0.dcm"] {
            assert_eq!(Instance::of_file(other.into(), 1), None, "{other}");
        }
    }

    #[test]
    fn a_record_survives_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let done = Some(Done { at_ns: 5, error: Some("no".into()) });
        let record = Record { name: "MR_1".into(), revision: 2, closed: Some(9), is_deleted: false, done };
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record));
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Record::read(folder.path()).is_err());
    }
}
