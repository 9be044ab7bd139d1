//! The device of a node, from its settings. `unsafe` code loads libtorch_cuda.

use eyre::{Result, WrapErr, bail, eyre};
use tch::{Cuda, Device};

use super::settings::variable;
use crate::bundle::{BundleConfig, Dataflow};
use crate::compute::{Compute, Precision};

/// `SPSAM_DEVICE`: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// Another value, or CUDA if there is none.
pub fn device() -> Result<Device> {
    device_by_name(variable("SPSAM_DEVICE").as_deref().unwrap_or("auto"))
}

/// The device with this name.
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

/// [`compute_in`] the precision of `SPSAM_PRECISION`: `auto` (bf16 if the hardware supports it), `fp32`, `bf16` or
/// `fp16`.
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

/// Fails if a message of the network is too large in the type that a node computes in. When the configuration was
/// opened, this type was not known.
///
/// # Errors
/// [`BundleConfig::check_edges`], with the name of the model.
pub fn check_edges(config: &BundleConfig, dataflow: Dataflow, compute: Compute) -> Result<()> {
    let outcome = config.check_edges(dataflow, compute.kind.elt_size_in_bytes());
    outcome.map_err(|reason| eyre!("model `{}`: {reason}", config.name))
}

/// Loads libtorch_cuda, because the linker drops libraries that no symbol needs. Without an NVIDIA driver it is not
/// loaded, since it takes a gigabyte. Returns whether it is loaded.
pub fn load_cuda() -> bool {
    let open = |name: &str| {
        // SAFETY: the initialisers of the driver and of libtorch_cuda only register their functions.
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
