//! `.safetensors` files (<https://github.com/huggingface/safetensors>): reading, and writing in one step that
//! leaves either the whole file or none.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, SafeTensorError, SafeTensors};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::tensors::{Tensors, kind_of, to_bytes};
use super::{CheckpointError, kind_name};
use crate::files::write_atomically;

/// Precision weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredAs {
    /// 32-bit floating point.
    Float32,
    /// IEEE 16-bit floating point: half the size, three digits.
    Float16,
}

/// A `.safetensors` file in memory.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the numbers begin.
    start: usize,
    metadata: Metadata,
}

impl SafetensorsFile {
    /// Reads the file and checks its header.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.into(), source };
        let mut bytes = Vec::new();
        fs::File::open(path).map_err(io)?.read_to_end(&mut bytes).map_err(io)?;
        let wrong = |e: SafeTensorError| {
            let (path, reason) = (path.into(), e.to_string());
            match e {
                SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
                    CheckpointError::Truncated { path, reason }
                }
                _ => CheckpointError::Damaged { path, reason },
            }
        };
        SafeTensors::deserialize(&bytes).map_err(wrong)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(wrong)?;
        Ok(Self { path: path.into(), bytes, start: header + size_of::<u64>(), metadata })
    }

    /// Key, shape and type of every tensor.
    pub fn entries(&self) -> Result<BTreeMap<String, (Vec<i64>, Kind)>, CheckpointError> {
        let entry = |(key, info): (String, &safetensors::tensor::TensorInfo)| {
            let kind = kind_of(info.dtype).ok_or_else(|| CheckpointError::NotATensor {
                path: self.path.clone(),
                key: key.clone(),
                reason: format!("type {:?} is not supported", info.dtype),
            })?;
            Ok((key, (info.shape.iter().map(|&size| size as i64).collect(), kind)))
        };
        self.metadata.tensors().into_iter().map(entry).collect()
    }

    /// The tensor `key`, on the CPU.
    pub fn read(&self, key: &str) -> Result<Tensor, CheckpointError> {
        let missing = || CheckpointError::Missing { path: self.path.clone(), key: key.into(), more: 0 };
        let info = self.metadata.info(key).ok_or_else(missing)?;
        let (first, end) = info.data_offsets;
        let bytes = self.bytes.get(self.start + first..self.start + end).ok_or_else(missing)?;
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        let kind = kind_of(info.dtype).ok_or_else(missing)?;
        Tensor::f_from_data_size(bytes, &shape, kind).map_err(|e| CheckpointError::Torch {
            path: self.path.clone(),
            key: key.into(),
            reason: e.to_string(),
        })
    }
}

/// Writes every variable of `vs`, atomically: a temporary file beside `path` is renamed when it is complete.
///
/// # Errors
/// [`CheckpointError::Io`]; [`CheckpointError::NonFinite`] where a weight is NaN or too large for `stored_as`.
pub fn save_safetensors(vs: &VarStore, path: &Path, stored_as: StoredAs) -> Result<(), CheckpointError> {
    let kind = match stored_as {
        StoredAs::Float32 => Kind::Float,
        StoredAs::Float16 => Kind::Half,
    };
    let mut tensors = Tensors::new();
    let variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
    for (key, variable) in variables {
        let stored = variable.detach().to_device(Device::Cpu).to_kind(kind);
        if !super::all_finite(&stored) {
            return Err(CheckpointError::NonFinite { path: path.into(), key, kind: kind_name(kind) });
        }
        tensors.insert(key, stored);
    }
    let bytes =
        to_bytes(&tensors).map_err(|reason| CheckpointError::Damaged { path: path.into(), reason })?;
    write_atomically(path, |file| file.write_all(&bytes))
        .map_err(|source| CheckpointError::Io { path: path.into(), source })
}
