//! Runs a script of `tests/python` and reads the arrays it writes.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};

use crate::python::run_with;

/// The arrays that a script saved, by name.
pub struct Reference(Vec<u8>);

impl Reference {
    /// Runs `script`; its first argument is the file to write, followed by `arguments`.
    pub fn run(script: &str, arguments: &[&Path]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("reference.safetensors");
        run_with(script, &[&[out.as_path()], arguments].concat());
        Self(std::fs::read(out).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    /// The names up to their last dot, sorted.
    pub fn cases(&self) -> BTreeSet<String> {
        self.tensors().names().iter().filter_map(|name| Some(name.rsplit_once('.')?.0.to_string())).collect()
    }

    fn array<T, const BYTES: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        read: fn([u8; BYTES]) -> T,
    ) -> ArrayD<T> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        let values = tensor.data().as_chunks().0.iter().map(|&bytes| read(bytes)).collect();
        ArrayD::from_shape_vec(IxDyn(tensor.shape()), values).unwrap()
    }

    /// A uint8 array.
    pub fn u8(&self, name: &str) -> ArrayD<u8> {
        self.array(name, Dtype::U8, u8::from_le_bytes)
    }

    /// A float32 array.
    pub fn f32(&self, name: &str) -> ArrayD<f32> {
        self.array(name, Dtype::F32, f32::from_le_bytes)
    }

    /// A float64 array.
    pub fn f64(&self, name: &str) -> ArrayD<f64> {
        self.array(name, Dtype::F64, f64::from_le_bytes)
    }

    /// A spacing, `[z, y, x]`.
    pub fn spacing_mm(&self, name: &str) -> [f64; 3] {
        self.f64(name).into_raw_vec_and_offset().0.try_into().unwrap()
    }
}
