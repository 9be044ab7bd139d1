//! Conversion between named tensors and the bytes of a `.safetensors` file.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::hash::hex;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// libtorch's type for the same numbers.
pub(super) fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, other)| *other == dtype).map(|(kind, _)| *kind)
}

const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int16, Dtype::I16),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

/// Values of a tensor, C order.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, String> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The bytes of the file.
///
/// # Errors
/// The name of a tensor whose type cannot be stored.
pub fn to_bytes(tensors: &Tensors) -> Result<Vec<u8>, String> {
    let mut values = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (_, dtype) = KINDS
            .iter()
            .find(|(kind, _)| *kind == tensor.kind())
            .ok_or_else(|| format!("{name} is of type {:?}", tensor.kind()))?;
        let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
        values.push((name, dtype, shape, bytes_of(tensor).map_err(|error| format!("{name}: {error}"))?));
    }
    let views = values.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(**dtype, shape.clone(), bytes);
        view.map(|view| (name.as_str(), view)).map_err(|error| error.to_string())
    });
    let views: Vec<_> = views.collect::<Result<_, _>>()?;
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

/// The tensors of a file, on the CPU.
///
/// # Errors
/// What is wrong with the file.
pub fn from_bytes(bytes: &[u8]) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        let kind = kind_of(view.dtype()).ok_or_else(|| format!("{name} is of type {:?}", view.dtype()))?;
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor =
            Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|error| error.to_string())?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// sha256 of some bytes, lower-case hex.
pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// sha256 of the names and values of tensors.
///
/// # Errors
/// A tensor whose values cannot be read.
pub fn sha256_of(tensors: &Tensors) -> Result<String, String> {
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        hasher.update(name.as_bytes());
        hasher.update(bytes_of(tensor)?);
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_as_they_were() {
        let tensors = Tensors::from([
            ("a".into(), Tensor::from_slice(&[1.5f32, -2.0, f32::MIN_POSITIVE]).view([3, 1])),
            ("b/steps".into(), Tensor::from_slice(&[i64::MAX])),
            ("c".into(), Tensor::from_slice(&[0.5f32]).to_kind(Kind::BFloat16)),
            ("empty".into(), Tensor::zeros([0, 2], (Kind::Float, Device::Cpu))),
        ]);
        let back = from_bytes(&to_bytes(&tensors).unwrap()).unwrap();
        assert!(tensors.keys().eq(back.keys()));
        for (name, tensor) in &tensors {
            assert_eq!((tensor.size(), tensor.kind()), (back[name].size(), back[name].kind()));
            assert!(tensor.equal(&back[name]), "{name}");
        }
        assert_eq!(sha256_of(&tensors), sha256_of(&back));
        assert!(from_bytes(b"nonsense").is_err());
    }
}
