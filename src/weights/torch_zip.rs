//! `.pth` files of torch 1.6 and newer: an uncompressed zip archive with `<name>/data.pkl` and one member
//! `<name>/data/<storage>` for each block of numbers (`torch/serialization.py`).
//!
//! tch has two readers, neither of which can serve: `load_multi` expects a TorchScript module, and `loadz_multi`
//! fails on an `OrderedDict`, which every state dict is, and on anything besides tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use zip::ZipArchive;
use zip::result::ZipError;

use super::CheckpointError;
use super::pickle::unpickle;
use super::value::{TensorRecord, Value};

/// A `.pth` file whose table of contents was read.
pub(super) struct TorchZip {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// Folder in the archive that everything is in, with `/`.
    prefix: String,
    records: BTreeMap<String, TensorRecord>,
}

impl TorchZip {
    /// Reads what the file holds, not yet the numbers.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let not = |reason: &str| CheckpointError::NotACheckpoint { path: path.into(), reason: reason.into() };
        let file = File::open(path).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|e| match e {
            ZipError::Io(source) => CheckpointError::Io { path: path.into(), source },
            _ => CheckpointError::Truncated {
                path: path.into(),
                reason: "the zip archive has no table of contents at its end".into(),
            },
        })?;
        let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
        if names.iter().any(|name| name.ends_with("/constants.pkl")) {
            return Err(not("a TorchScript module; save its state_dict() instead"));
        }
        let prefix = names
            .iter()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .find(|prefix| prefix.matches('/').count() == 1)
            .ok_or_else(|| not("a zip archive without data.pkl"))?
            .to_owned();
        let mut this = Self { path: path.into(), archive, prefix, records: BTreeMap::new() };
        let byte_order = format!("{}byteorder", this.prefix);
        if names.contains(&byte_order) && this.member(&byte_order, None)? != b"little" {
            return Err(not("big-endian numbers"));
        }
        let pickle = this.member(&format!("{}data.pkl", this.prefix), None)?;
        let root = unpickle(&pickle).map_err(|reason| this.damaged(format!("data.pkl: {reason}")))?;
        this.records = this.state_dict(&root)?;
        Ok(this)
    }

    /// Key, shape and type of every tensor.
    pub fn entries(&self) -> BTreeMap<String, (Vec<i64>, Kind)> {
        let entry = |(key, record): (&String, &TensorRecord)| {
            (key.clone(), (record.shape.clone(), record.storage.kind))
        };
        self.records.iter().map(entry).collect()
    }

    /// The tensor `key`, on the CPU.
    pub fn read(&mut self, key: &str) -> Result<Tensor, CheckpointError> {
        let record = self.records.get(key).cloned().ok_or_else(|| CheckpointError::Missing {
            path: self.path.clone(),
            key: key.into(),
            more: 0,
        })?;
        let TensorRecord { storage, offset, shape, strides } = record;
        let fits = extent(offset, &shape, &strides).is_some_and(|extent| extent <= storage.len);
        if !fits {
            return Err(self.damaged(format!("{key} reaches beyond its storage {}", storage.name)));
        }
        let expected = storage.len as usize * storage.kind.elt_size_in_bytes();
        let bytes = self.member(&format!("{}data/{}", self.prefix, storage.name), Some(expected))?;
        Tensor::f_from_data_size(&bytes, &[storage.len], storage.kind)
            .and_then(|numbers| numbers.f_as_strided(&shape, &strides, offset)?.f_contiguous())
            .map_err(|e| CheckpointError::Torch {
                path: self.path.clone(),
                key: key.into(),
                reason: e.to_string(),
            })
    }

    fn damaged(&self, reason: String) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), reason }
    }

    /// A member's bytes, their checksum checked; `expected` bytes where that is known.
    fn member(&mut self, name: &str, expected: Option<usize>) -> Result<Vec<u8>, CheckpointError> {
        let path = self.path.clone();
        let damaged = |reason: String| CheckpointError::Damaged { path: path.clone(), reason };
        let mut member = self.archive.by_name(name).map_err(|e| damaged(format!("{name}: {e}")))?;
        let mut bytes = Vec::new();
        let limit = expected.map_or(u64::MAX, |bytes| bytes as u64 + 1);
        member.by_ref().take(limit).read_to_end(&mut bytes).map_err(|e| damaged(format!("{name}: {e}")))?;
        match expected {
            Some(expected) if bytes.len() != expected => {
                Err(damaged(format!("{name} is not the {expected} bytes that its tensor needs")))
            }
            _ => Ok(bytes),
        }
    }

    /// The tensors of the state dict, which is the file itself or below `model` or `state_dict`.
    fn state_dict(&self, root: &Value) -> Result<BTreeMap<String, TensorRecord>, CheckpointError> {
        let is_dict = |value: &Value| matches!(value, Value::Dict(_));
        let nested = ["model", "state_dict"].iter().find_map(|name| root.get(name).filter(is_dict));
        let Value::Dict(pairs) = nested.as_ref().unwrap_or(root) else {
            return Err(CheckpointError::NotACheckpoint {
                path: self.path.clone(),
                reason: "it holds no state dict".into(),
            });
        };
        let pairs = pairs.borrow();
        let record = |(key, value): &(Value, Value)| match (key, value) {
            (Value::Text(key), Value::Tensor(record)) => Ok((key.to_string(), TensorRecord::clone(record))),
            (key, _) => Err(CheckpointError::NotATensor {
                path: self.path.clone(),
                key: if let Value::Text(key) = key { key.to_string() } else { format!("{key:?}") },
                reason: "the state dict holds something else there".into(),
            }),
        };
        pairs.iter().map(record).collect()
    }
}

/// Numbers from the start of its storage that a strided view needs; `None` where that makes no sense.
fn extent(offset: i64, shape: &[i64], strides: &[i64]) -> Option<i64> {
    let negative = |numbers: &[i64]| numbers.iter().any(|&number| number < 0);
    if offset < 0 || shape.len() != strides.len() || negative(shape) || negative(strides) {
        return None;
    }
    if shape.contains(&0) {
        return Some(offset);
    }
    let mut last = offset;
    for (size, stride) in shape.iter().zip(strides) {
        last = last.checked_add((size - 1).checked_mul(*stride)?)?;
    }
    last.checked_add(1)
}
