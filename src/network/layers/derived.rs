//! Tensors computed once from frozen parameters.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::tensor::passes_gradient;

/// A tensor computed from parameters. It is kept until one of them changes. If a gradient must flow through it, it
/// is recomputed on each call.
#[derive(Debug, Default)]
pub struct Derived(RefCell<Option<Kept>>);

/// The stored tensor, with the size and the states of the parameters for which it was computed.
#[derive(Debug)]
struct Kept {
    size: i64,
    made_of: Vec<Stamp>,
    tensor: Tensor,
}

/// Identifies the state of a parameter: address, version, type and device.
type Stamp = (usize, i64, Kind, Device);

impl Derived {
    /// The result of `compute` for `parameters`.
    pub fn of(&self, parameters: &[&Tensor], compute: impl FnOnce() -> Tensor) -> Tensor {
        self.of_size(0, parameters, compute)
    }

    /// As [`Self::of`], for one of several sizes. Only the last size is kept.
    pub fn of_size(&self, size: i64, parameters: &[&Tensor], compute: impl FnOnce() -> Tensor) -> Tensor {
        if parameters.iter().any(|parameter| passes_gradient(parameter)) {
            return compute();
        }
        let stamp = |parameter: &&Tensor| {
            (
                parameter.data_ptr() as usize,
                parameter.internal_version(),
                parameter.kind(),
                parameter.device(),
            )
        };
        let stamps: Vec<Stamp> = parameters.iter().map(stamp).collect();
        let mut kept = self.0.borrow_mut();
        match &*kept {
            Some(kept) if kept.size == size && kept.made_of == stamps => kept.tensor.shallow_clone(),
            _ => {
                let fresh = compute();
                *kept = Some(Kept { size, made_of: stamps, tensor: fresh.shallow_clone() });
                fresh
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_follows_its_parameters() {
        let mut parameter = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        let derived = Derived::default();
        let sum =
            |parameter: &Tensor| derived.of(&[parameter], || parameter.sum(Kind::Float)).double_value(&[]);
        assert_eq!(sum(&parameter), 0.0);
        let _ = parameter.fill_(1.0);
        assert_eq!(sum(&parameter), 2.0);
        assert_eq!(derived.of(&[&parameter], Tensor::new).double_value(&[]), 2.0, "kept");
    }
}
