//! Where libtorch computes, and how precisely.

mod capability;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use thiserror::Error;

/// How precisely to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where the hardware multiplies it (CPUs with AVX512-BF16 or AMX, CUDA from compute capability 8.0 on), fp32
    /// elsewhere.
    #[default]
    Auto,
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats with the range of fp32 (8 bits of mantissa).
    Bf16,
    /// IEEE 16-bit floats; fast on GPUs and on CPUs with AVX512-FP16 only.
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

/// A precision that is none of those there are.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is none of auto, fp32, bf16, fp16")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Auto, Self::Fp32, Self::Bf16, Self::Fp16];
        known.into_iter().find(|known| known.name() == text).ok_or_else(|| UnknownPrecision(text.into()))
    }
}

/// Where weights lie and in which type the network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Device.
    pub device: Device,
    /// Type of weights and activations.
    pub kind: Kind,
}

impl Compute {
    /// What `precision` means on `device`.
    pub fn new(device: Device, precision: Precision) -> Self {
        Self { device, kind: kind(precision, || multiplies_bf16(device)) }
    }

    /// 32-bit floats on `device`.
    pub fn fp32(device: Device) -> Self {
        Self::new(device, Precision::Fp32)
    }

    /// A tensor that came from another node, on the device and in the type of this one: one conversion, none where it
    /// is right already.
    pub fn receive(self, tensor: &Tensor) -> Tensor {
        tensor.to_device_(self.device, self.kind, false, false)
    }

    /// The precision that the type stands for, never `Auto`.
    pub fn precision(self) -> Precision {
        match self.kind {
            Kind::BFloat16 => Precision::Bf16,
            Kind::Half => Precision::Fp16,
            _ => Precision::Fp32,
        }
    }

    /// Brings the weights of a store to the type, once. Buffers (statistics and frequencies that small rounding
    /// would spoil) stay in fp32.
    pub fn convert(self, store: &VarStore) {
        for mut variable in store.trainable_variables() {
            let converted = tch::no_grad(|| variable.detach().to_kind(self.kind));
            variable.set_data(&converted);
        }
    }
}

/// The type of a precision; asks whether the hardware multiplies bf16 only where it depends on that.
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
            "`float` is none of auto, fp32, bf16, fp16"
        );
    }

    #[test]
    fn auto_is_bf16_only_where_the_hardware_multiplies_it() {
        for (multiplies, expected) in [(true, Kind::BFloat16), (false, Kind::Float)] {
            assert_eq!(kind(Precision::Auto, || multiplies), expected);
            assert_eq!(kind(Precision::Bf16, || multiplies), Kind::BFloat16, "what is asked for counts");
            assert_eq!(kind(Precision::Fp32, || multiplies), Kind::Float);
        }
        // No GPU has this number: nothing is known of it.
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
