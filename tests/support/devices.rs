//! The devices that tests use.

use self_prompt_sam::runtime::load_cuda;
use tch::{Cuda, Device};

use crate::skip::shortened;

/// The CPU and, if there is one, the first CUDA device.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if load_cuda() && Cuda::is_available() {
        devices.push(Device::Cuda(0));
    } else {
        shortened("only on the CPU: no NVIDIA GPU that libtorch can use");
    }
    devices
}
