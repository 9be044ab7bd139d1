//! Checks that tests use a GPU if there is one. The linker drops libtorch_cuda, and without it everything runs on
//! the CPU.

use std::path::Path;

use self_prompt_sam::runtime::load_cuda;
use tch::{Cuda, Device, Kind, Tensor};

use crate::devices::devices;
use crate::skip::skipped;

#[test]
fn a_gpu_of_this_machine_is_used() {
    if !Path::new("/dev/nvidiactl").exists() {
        skipped("needs an NVIDIA GPU");
        return;
    }
    if !load_cuda() {
        skipped("needs a libtorch with CUDA");
        return;
    }
    assert!(Cuda::is_available() && Cuda::device_count() > 0, "libtorch_cuda is loaded, but finds no device");
    assert_eq!(devices(), [Device::Cpu, Device::Cuda(0)]);
    let ones = Tensor::ones([64, 64], (Kind::Float, Device::Cuda(0)));
    let product = ones.matmul(&ones);
    assert_eq!(product.device(), Device::Cuda(0));
    assert_eq!(product.mean(Kind::Float).double_value(&[]), 64.0);
}
