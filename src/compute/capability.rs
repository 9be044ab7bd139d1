//! The compute capability of a CUDA device, from NVIDIA's driver: tch has no call for it, and libtorch's needs
//! CUDA's headers.

use libloading::{Library, Symbol};

/// Compute capability, major and minor number: `(8, 0)` for an A100, `(7, 5)` for a T4.
pub type Capability = (i32, i32);

/// The first generation with tensor cores for bf16 (Ampere). Older ones compute it slowly, through fp32.
const FIRST_WITH_BF16: Capability = (8, 0);

/// Numbers of `CUdevice_attribute` in cuda.h.
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;

/// Whether devices of this capability support bf16.
pub fn multiplies_bf16(capability: Capability) -> bool {
    capability >= FIRST_WITH_BF16
}

/// The capability of CUDA device number `device`, counted as libtorch does (`CUDA_VISIBLE_DEVICES`); `None` without a
/// driver or such a device.
pub fn capability_of(device: usize) -> Option<Capability> {
    type Init = unsafe extern "C" fn(flags: u32) -> i32;
    type Get = unsafe extern "C" fn(device: *mut i32, ordinal: i32) -> i32;
    type Attribute = unsafe extern "C" fn(value: *mut i32, attribute: i32, device: i32) -> i32;
    let ordinal = i32::try_from(device).ok()?;
    // SAFETY: the driver's initialisers only register their functions. The functions have the signatures of cuda.h,
    // which are the same in all versions. Each writes one integer if its result is 0 (CUDA_SUCCESS).
    unsafe {
        let driver = Library::new("libcuda.so.1").ok()?;
        let init: Symbol<'_, Init> = driver.get(b"cuInit").ok()?;
        let get: Symbol<'_, Get> = driver.get(b"cuDeviceGet").ok()?;
        let attribute: Symbol<'_, Attribute> = driver.get(b"cuDeviceGetAttribute").ok()?;
        let (mut device, mut major, mut minor) = (0, 0, 0);
        let worked = init(0) == 0
            && get(&mut device, ordinal) == 0
            && attribute(&mut major, CAPABILITY_MAJOR, device) == 0
            && attribute(&mut minor, CAPABILITY_MINOR, device) == 0;
        worked.then_some((major, minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_for_ampere_and_later() {
        let old = [(3, 7), (6, 1), (7, 0), (7, 5)]; // K80, GTX 1080, V100, T4
        let new = [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]; // A100, RTX 3090, RTX 4090, H100, RTX 5090
        assert!(old.into_iter().all(|capability| !multiplies_bf16(capability)));
        assert!(new.into_iter().all(multiplies_bf16));
    }

    #[test]
    fn a_device_that_is_not_there_has_no_capability() {
        assert_eq!(capability_of(1 << 20), None);
    }
}
