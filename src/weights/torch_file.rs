//! `.pth` files of torch, read by the crate `pytorch-reader`, which does not run code that a pickle may contain
//! (`docs/decisions/0013`).
//!
//! tch has two readers, but neither is suitable: `load_multi` expects a TorchScript module, and `loadz_multi` fails
//! on an `OrderedDict`, which every state dict is, and on anything other than tensors.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader, Tensor as Stored};
use tch::{Kind, Tensor};

use super::CheckpointError;

/// An attribute of torch's state dicts, which the crate lists among the entries.
const ATTRIBUTE: &str = "_metadata";
/// Keys under which a checkpoint may hold its state dict.
const WRAPPERS: [&str; 2] = ["model", "state_dict"];

/// A `.pth` file of which everything except the numbers has been read.
pub(super) struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, (Kind, Stored)>,
}

impl TorchFile {
    /// Reads the structure of the file, but not the numbers. The state dict is the top-level object, or is under
    /// `model` or `state_dict`, and contains only tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let wrong = |error| checkpoint_error(path, error);
        let not = |reason: &str| CheckpointError::NotACheckpoint { path: path.into(), reason: reason.into() };
        let PickleValue::Dict(root) = PytorchReader::read_pickle_data(path, None).map_err(wrong)? else {
            return Err(not("it holds no state dict"));
        };
        let wrapper = WRAPPERS.into_iter().find(|name| matches!(root.get(*name), Some(PickleValue::Dict(_))));
        let (reader, entries) = match wrapper.and_then(|name| Some((name, root.get(name)?))) {
            Some((name, PickleValue::Dict(inner))) => {
                (PytorchReader::with_top_level_key(path, name).map_err(wrong)?, inner)
            }
            _ => (PytorchReader::new(path).map_err(wrong)?, &root),
        };
        let mut stored = reader.into_tensors();
        let tensor = |key: &String| {
            let not_a_tensor =
                |reason: String| CheckpointError::NotATensor { path: path.into(), key: key.clone(), reason };
            let tensor = stored
                .remove(key)
                .ok_or_else(|| not_a_tensor("the state dict holds something else there".into()))?;
            let kind = kind_of(tensor.dtype())
                .ok_or_else(|| not_a_tensor(format!("type {:?} is not supported", tensor.dtype())))?;
            Ok((key.clone(), (kind, tensor)))
        };
        let keys = entries.keys().filter(|key| *key != ATTRIBUTE);
        let tensors = keys.map(tensor).collect::<Result<_, CheckpointError>>()?;
        Ok(Self { path: path.into(), tensors })
    }

    /// Key, shape and type of every tensor.
    pub fn entries(&self) -> BTreeMap<String, (Vec<i64>, Kind)> {
        let shape = |tensor: &Stored| tensor.shape().iter().map(|&size| size as i64).collect();
        self.tensors.iter().map(|(key, (kind, tensor))| (key.clone(), (shape(tensor), *kind))).collect()
    }

    /// The tensor `key`, on the CPU.
    pub fn read(&self, key: &str) -> Result<Tensor, CheckpointError> {
        let (kind, tensor) = self.tensors.get(key).ok_or_else(|| CheckpointError::Missing {
            path: self.path.clone(),
            key: key.into(),
            more: 0,
        })?;
        let bytes = tensor.read().map_err(|error| checkpoint_error(&self.path, error.into()))?;
        let shape: Vec<i64> = tensor.shape().iter().map(|&size| size as i64).collect();
        Tensor::f_from_data_size(&bytes, &shape, *kind).map_err(|error| CheckpointError::Torch {
            path: self.path.clone(),
            key: key.into(),
            reason: error.to_string(),
        })
    }
}

fn kind_of(dtype: DType) -> Option<Kind> {
    Some(match dtype {
        DType::F64 => Kind::Double,
        DType::F32 => Kind::Float,
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::I64 => Kind::Int64,
        DType::I32 => Kind::Int,
        DType::I16 => Kind::Int16,
        DType::I8 => Kind::Int8,
        DType::U8 => Kind::Uint8,
        DType::Bool => Kind::Bool,
        DType::U64 | DType::U32 | DType::U16 => return None,
    })
}

fn checkpoint_error(path: &Path, error: PytorchError) -> CheckpointError {
    let path = path.to_path_buf();
    match error {
        PytorchError::Io(source) if source.kind() == ErrorKind::UnexpectedEof => {
            CheckpointError::Truncated { path, reason: one_line(&source.to_string()) }
        }
        PytorchError::Io(source) if source.kind() == ErrorKind::InvalidData => {
            CheckpointError::Damaged { path, reason: one_line(&source.to_string()) }
        }
        PytorchError::Io(source) => CheckpointError::Io { path, source },
        PytorchError::InvalidFormat(reason) => {
            CheckpointError::NotACheckpoint { path, reason: one_line(&reason) }
        }
        // Class names of TorchScript modules contain this.
        PytorchError::Pickle(error) if error.to_string().contains("'__torch__.") => {
            let reason = "a TorchScript module; save its state_dict() instead".into();
            CheckpointError::NotACheckpoint { path, reason }
        }
        other => {
            let reason = one_line(&other.to_string());
            // The directory of a zip file is at its end.
            let is_cut = reason.contains("Could not find EOCD");
            if is_cut {
                CheckpointError::Truncated { path, reason }
            } else {
                CheckpointError::Damaged { path, reason }
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
