//! Runs a case of a reference script and compares results with the script's output.
#![expect(clippy::unwrap_used, reason = "helpers of tests are outside #[test] functions")]

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor, nn};

use crate::python::run_with;

/// Largest absolute error allowed in fp32, as a fraction of the largest expected value. Two implementations sum in
/// different orders, and the difference grows in a deep network.
const TOLERANCE: f64 = 1e-4;

/// The output of one case of a reference script: `weights.*`, `input.*` and `output.*`.
pub struct Reference(HashMap<String, Tensor>);

impl Reference {
    /// Runs `tests/python/<script> <case> <file>`.
    pub fn run(script: &str, case: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("case.safetensors");
        run_with(script, &[Path::new(case), &file]);
        Self(Tensor::read_safetensors(&file).unwrap().into_iter().collect())
    }

    /// An input tensor.
    pub fn input(&self, name: &str, device: Device) -> Tensor {
        self.0[&format!("input.{name}")].to_device(device)
    }

    /// Copies the weights into `store`; both must have the same names and shapes.
    pub fn load(&self, store: &nn::VarStore) {
        let weights: HashMap<&str, &Tensor> = self
            .0
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("weights.")?, tensor)))
            .collect();
        let variables = store.variables();
        let shapes = |named: Vec<(&str, &Tensor)>| {
            let mut shapes: Vec<_> =
                named.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.size())).collect();
            shapes.sort();
            shapes
        };
        let ours = shapes(variables.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect());
        assert_eq!(ours, shapes(weights.iter().map(|(name, tensor)| (*name, *tensor)).collect()));
        tch::no_grad(|| {
            for (name, mut variable) in variables {
                variable.copy_(weights[name.as_str()]);
            }
        });
    }

    /// Fails unless `found` is on `device` and has the expected shape and, within the tolerance, the expected
    /// values.
    pub fn check(&self, name: &str, found: &Tensor, device: Device) {
        let expected = &self.0[&format!("output.{name}")];
        assert_eq!((found.device(), found.size()), (device, expected.size()), "{name}");
        if expected.numel() == 0 {
            return;
        }
        let largest = |x: Tensor| x.abs().max().double_value(&[]);
        let found = found.to_device(Device::Cpu).to_kind(Kind::Float);
        let error = largest(&found - expected) / largest(expected.shallow_clone());
        println!("{name}: relative error {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: relative error {error}");
    }
}
