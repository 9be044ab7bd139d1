//! Device and precision of computations.

mod capability;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use thiserror::Error;

/// Precision of computations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on hardware that supports it (CPUs with AVX512-BF16, CUDA from compute capability 8.0 on), else
    /// fp32.
    #[default]
    Auto,
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point with the range of fp32 (8-bit mantissa).
    Bf16,
    /// IEEE 16-bit floating point; fast only on GPUs and on CPUs with AVX512-FP16.
    Fp16,
}

impl Precision {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }
}

/// The name is not that of a precision.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not one of auto, fp32, bf16, fp16")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Auto, Self::Fp32, Self::Bf16, Self::Fp16];
        known.into_iter().find(|known| known.name() == text).ok_or_else(|| UnknownPrecision(text.into()))
    }
}

/// Device of the weights, and the type in which the network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Device.
    pub device: Device,
    /// Type of weights and activations.
    pub kind: Kind,
}

impl Compute {
    /// The type that `precision` stands for on `device`.
    pub fn new(device: Device, precision: Precision) -> Self {
        Self { device, kind: kind(precision, || multiplies_bf16(device)) }
    }

    /// fp32 on `device`.
    pub fn fp32(device: Device) -> Self {
        Self::new(device, Precision::Fp32)
    }

    /// Brings a tensor from another node to this device and type. Converts at most once, and not at all if nothing
    /// differs.
    pub fn receive(self, tensor: &Tensor) -> Tensor {
        tensor.to_device_(self.device, self.kind, false, false)
    }

    /// The precision of the type, never `Auto`.
    pub fn precision(self) -> Precision {
        match self.kind {
            Kind::BFloat16 => Precision::Bf16,
            Kind::Half => Precision::Fp16,
            _ => Precision::Fp32,
        }
    }

    /// Converts the weights of a store to the type, once. Buffers (statistics and frequencies, which rounding would
    /// spoil) stay in fp32.
    pub fn convert(self, store: &VarStore) {
        for mut variable in store.trainable_variables() {
            let converted = tch::no_grad(|| variable.detach().to_kind(self.kind));
            variable.set_data(&converted);
        }
    }
}

/// The type of a precision. Checks the hardware for bf16 only if the type depends on it.
fn kind(precision: Precision, multiplies_bf16: impl FnOnce() -> bool) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
        Precision::Auto if multiplies_bf16() => Kind::BFloat16,
        Precision::Auto => Kind::Float,
    }
}

fn multiplies_bf16(device: Device) -> bool {
    match device {
        Device::Cpu => cpu_multiplies_bf16(),
        Device::Cuda(number) => capability::capability_of(number).is_some_and(capability::multiplies_bf16),
        _ => false,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_multiplies_bf16() -> bool {
    std::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_multiplies_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_are_parsed_and_mistakes_named() {
        assert_eq!("bf16".parse(), Ok(Precision::Bf16));
        assert_eq!(
            "float".parse::<Precision>().unwrap_err().to_string(),
            "`float` is not one of auto, fp32, bf16, fp16"
        );
    }

    #[test]
    fn auto_is_bf16_only_where_the_hardware_multiplies_it() {
        for (multiplies, expected) in [(true, Kind::BFloat16), (false, Kind::Float)] {
            assert_eq!(kind(Precision::Auto, || multiplies), expected);
            assert_eq!(kind(Precision::Bf16, || multiplies), Kind::BFloat16, "what is asked for counts");
            assert_eq!(kind(Precision::Fp32, || multiplies), Kind::Float);
        }
        // No GPU has this number, so nothing is known about it.
        assert_eq!(Compute::new(Device::Cuda(1 << 20), Precision::Auto).kind, Kind::Float);
    }

    #[test]
    fn weights_are_converted_and_buffers_kept() {
        let store = VarStore::new(Device::Cpu);
        let weight = store.root().ones("weight", &[2]);
        let buffer = store.root().ones_no_train("running_mean", &[2]);
        Compute::new(Device::Cpu, Precision::Bf16).convert(&store);
        assert_eq!((weight.kind(), buffer.kind()), (Kind::BFloat16, Kind::Float));
    }
}
