//! Where a node computes, from its settings. `unsafe` is here because libtorch_cuda is loaded by hand.

use eyre::{Result, WrapErr, bail};
use tch::{Cuda, Device};

use super::settings::variable;
use crate::compute::{Compute, Precision};

/// `SPSAM_DEVICE`: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// Another value, or CUDA where there is none.
pub fn device() -> Result<Device> {
    device_by_name(variable("SPSAM_DEVICE").as_deref().unwrap_or("auto"))
}

/// [`device`] by another text.
///
/// # Errors
/// Those of [`device`].
pub fn device_by_name(text: &str) -> Result<Device> {
    load_cuda();
    let device = match text {
        "auto" => Device::cuda_if_available(),
        "cpu" => Device::Cpu,
        "cuda" => Device::Cuda(0),
        other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => Device::Cuda(index),
            None => bail!("SPSAM_DEVICE is `{other}`, expected auto, cpu, cuda or cuda:N"),
        },
    };
    match device {
        Device::Cuda(index) if index as i64 >= Cuda::device_count() => {
            bail!("SPSAM_DEVICE is `{text}`, but libtorch sees {} CUDA devices", Cuda::device_count())
        }
        _ => Ok(device),
    }
}

/// [`compute_in`] what `SPSAM_PRECISION` says: `auto` (bf16 where the hardware multiplies it), `fp32`, `bf16` or `fp16`.
///
/// # Errors
/// Another value, or those of [`device`].
pub fn compute() -> Result<Compute> {
    compute_in(match variable("SPSAM_PRECISION") {
        None => Precision::Auto,
        Some(text) => text.trim().parse().wrap_err("SPSAM_PRECISION")?,
    })
}

/// [`device`] with a precision.
///
/// # Errors
/// Those of [`device`].
pub fn compute_in(precision: Precision) -> Result<Compute> {
    Ok(Compute::new(device()?, precision))
}

/// Makes CUDA visible. cargo's linker drops libraries that no symbol needs, libtorch_cuda among them, so it is loaded
/// by hand; where there is no NVIDIA driver it is left alone, as it takes a gigabyte. Returns whether it is loaded.
pub fn load_cuda() -> bool {
    let open = |name: &str| {
        // SAFETY: the driver's and libtorch_cuda's initialisers only register what they offer.
        unsafe { libloading::os::unix::Library::open(Some(name), libc::RTLD_NOW | libc::RTLD_GLOBAL) }
    };
    match open("libcuda.so.1").and_then(|_| open("libtorch_cuda.so")) {
        Ok(library) => {
            std::mem::forget(library);
            true
        }
        Err(error) => {
            tracing::debug!("no CUDA: {error}");
            false
        }
    }
}
