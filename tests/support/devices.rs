//! The devices that tests compute on.

use self_prompt_sam::runtime::load_cuda;
use tch::{Cuda, Device};

use crate::skip::shortened;

/// The CPU, and the first CUDA device where there is one.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if load_cuda() && Cuda::is_available() {
        devices.push(Device::Cuda(0));
    } else {
        shortened("on the CPU alone: no NVIDIA GPU that libtorch can use");
    }
    devices
}
