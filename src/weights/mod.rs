//! Weight files: `.pth` of torch and `.safetensors`, read strictly under the official names of SAM and
//! LiteMedSAM.
//!
//! Strict means that every parameter is in the file in exactly its shape, that the file has nothing the network
//! does not know, and that all values are finite. The type of a file is found from its contents.

mod error;
mod hash;
mod safetensors_file;
mod tensors;
mod torch_file;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use tch::nn::VarStore;
use tch::{Kind, Tensor};

pub use error::CheckpointError;
pub use hash::{check_sha256, sha256_file};
pub use safetensors_file::{StoredAs, save_safetensors};
pub use tensors::{Tensors, from_bytes, sha256_of, sha256_of_bytes, to_bytes};

use safetensors_file::SafetensorsFile;
use torch_file::TorchFile;

/// Buffers of the official networks that are not weights: integer counters and tables that are recomputed here.
const BUFFERS: [&str; 2] = [".num_batches_tracked", ".attention_bias_idxs"];

/// Loads the variables of `vs` whose names begin with one of `wanted` (such as `image_encoder.`; the empty string
/// is every name) from `path`, in any floating-point type.
///
/// Keys of the file below `wanted` must all be variables of `vs`; keys below `known` are other parts' and are
/// left alone; any other key is an error. Names, shapes and types are checked before the first value changes;
/// after [`CheckpointError::NonFinite`], [`CheckpointError::Damaged`] or an I/O error during the copy `vs` is
/// partly loaded and of no use.
///
/// # Errors
/// Every variant of [`CheckpointError`] but `Hash`.
pub fn load_strict(
    vs: &mut VarStore,
    path: &Path,
    wanted: &[&str],
    known: &[&str],
) -> Result<(), CheckpointError> {
    load_fitted(vs, path, wanted, known, None)
}

/// Fits tensors of a file into variables of another shape or meaning.
pub trait Fit {
    /// Whether the tensor `key` of shape `found` can be fitted into the variable of shape `own`.
    fn fits(&self, key: &str, found: &[i64], own: &[i64]) -> bool;
    /// The value of the variable that is now `own`, of its shape, from the file's `value`.
    fn fitted(&self, key: &str, value: Tensor, own: &Tensor) -> Tensor;
}

/// As [`load_strict`], but what `fit` can fit may have another shape.
///
/// # Errors
/// Those of [`load_strict`].
pub fn load_fitted(
    vs: &mut VarStore,
    path: &Path,
    wanted: &[&str],
    known: &[&str],
    fit: Option<&dyn Fit>,
) -> Result<(), CheckpointError> {
    let source = Source::open(path)?;
    let entries = source.entries()?;
    let below = |prefixes: &[&str], key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
    let variables: BTreeMap<String, Tensor> =
        vs.variables().into_iter().filter(|(key, _)| below(wanted, key)).collect();

    if let Some((key, more)) = first_and_rest(variables.keys().filter(|key| !entries.contains_key(*key))) {
        return Err(CheckpointError::Missing { path: path.into(), key, more });
    }
    let is_buffer = |key: &str| BUFFERS.iter().any(|suffix| key.ends_with(suffix));
    let unexpected = entries.keys().filter(|key| match below(wanted, key) {
        true => !variables.contains_key(*key) && !is_buffer(key),
        false => !below(known, key),
    });
    if let Some((key, more)) = first_and_rest(unexpected) {
        return Err(CheckpointError::Unexpected { path: path.into(), key, more });
    }
    let fits = |key: &str, found: &[i64], own: &[i64]| fit.is_some_and(|fit| fit.fits(key, found, own));
    for (key, (shape, kind)) in entries.iter().filter(|(key, _)| below(wanted, key)) {
        let wrong_kind = |expected| CheckpointError::Kind {
            path: path.into(),
            key: key.clone(),
            expected,
            found: kind_name(*kind),
        };
        match variables.get(key) {
            None if is_float(*kind) => return Err(wrong_kind("an integer type")),
            None => {}
            Some(_) if !is_float(*kind) => return Err(wrong_kind("a floating-point type")),
            Some(variable) if variable.size() != *shape && !fits(key, shape, &variable.size()) => {
                return Err(CheckpointError::Shape {
                    path: path.into(),
                    key: key.clone(),
                    expected: variable.size(),
                    found: shape.clone(),
                });
            }
            Some(_) => {}
        }
    }
    for (key, mut variable) in variables {
        let kind = variable.kind();
        let mut value = source.read(&key)?.to_kind(kind);
        if !all_finite(&value) {
            return Err(CheckpointError::NonFinite { path: path.into(), key, kind: kind_name(kind) });
        }
        if let Some(fit) = fit {
            value = tch::no_grad(|| fit.fitted(&key, value, &variable));
        }
        tch::no_grad(|| variable.f_copy_(&value)).map_err(|e| CheckpointError::Torch {
            path: path.into(),
            key,
            reason: e.to_string(),
        })?;
    }
    Ok(())
}

/// A tensor in a weight file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name.
    pub key: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// torch's name of its type, such as `float32`.
    pub kind: &'static str,
}

/// Every tensor in a weight file, in the keys' order.
///
/// # Errors
/// [`CheckpointError::Io`] and those of a file that is no readable checkpoint.
pub fn list(path: &Path) -> Result<Vec<StoredTensor>, CheckpointError> {
    let entries = Source::open(path)?.entries()?;
    let stored = |(key, (shape, kind))| StoredTensor { key, shape, kind: kind_name(kind) };
    Ok(entries.into_iter().map(stored).collect())
}

/// An open weight file.
enum Source {
    Torch(TorchFile),
    Safetensors(SafetensorsFile),
}

impl Source {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut head = Vec::new();
        File::open(path)
            .and_then(|file| file.take(16).read_to_end(&mut head))
            .map_err(|source| CheckpointError::Io { path: path.into(), source })?;
        // Before zip archives (torch 1.6), torch wrote a pickled magic number; before that, a tar archive.
        const LEGACY_MAGIC: &[u8] = &[0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20];
        match &head[..] {
            [b'P', b'K', 3, 4, ..] => TorchFile::open(path).map(Source::Torch),
            [0x80, _, rest @ ..] if rest.starts_with(LEGACY_MAGIC) => {
                TorchFile::open(path).map(Source::Torch)
            }
            [_, _, _, _, _, _, _, _, b'{', ..] => SafetensorsFile::open(path).map(Source::Safetensors),
            [] => Err(CheckpointError::Truncated { path: path.into(), reason: "it is empty".into() }),
            _ => Err(CheckpointError::NotACheckpoint {
                path: path.into(),
                reason: "neither a zip archive of torch nor safetensors".into(),
            }),
        }
    }

    fn entries(&self) -> Result<BTreeMap<String, (Vec<i64>, Kind)>, CheckpointError> {
        match self {
            Source::Torch(file) => Ok(file.entries()),
            Source::Safetensors(file) => file.entries(),
        }
    }

    fn read(&self, key: &str) -> Result<Tensor, CheckpointError> {
        match self {
            Source::Torch(file) => file.read(key),
            Source::Safetensors(file) => file.read(key),
        }
    }
}

fn first_and_rest<'a>(mut keys: impl Iterator<Item = &'a String>) -> Option<(String, usize)> {
    keys.next().map(|first| (first.clone(), keys.count()))
}

fn all_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "float32",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        Kind::Double => "float64",
        Kind::Int64 => "int64",
        Kind::Int => "int32",
        Kind::Int16 => "int16",
        Kind::Int8 => "int8",
        Kind::Uint8 => "uint8",
        Kind::Bool => "bool",
        _ => "an unsupported type",
    }
}
