//! Weights of linear layers, packed for fast products on the CPU.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use tch::Tensor;

unsafe extern "C" {
    fn spsam_pack_weight(weight: *const c_void, rows: i64) -> *mut c_void;
    fn spsam_packed_linear(x: *const c_void, weight: *const c_void, bias: *const c_void) -> *mut c_void;
    fn spsam_packing_failed() -> *const c_char;
}

/// A copy of W `[out, in]` on the CPU, packed by oneDNN. It is fastest for inputs of about `rows` vectors and
/// correct for any number. Only [`packed_linear`] can read it.
///
/// # Errors
/// libtorch's message, also if libtorch was built without oneDNN.
pub fn pack_weight(weight: &Tensor, rows: i64) -> Result<Tensor, String> {
    // SAFETY: the tensor outlives the call.
    taken(unsafe { spsam_pack_weight(weight.as_ptr().cast(), rows) })
}

/// x · Wᵀ + b with a packed W, `[…, in]` to `[…, out]`, outside any graph.
///
/// # Errors
/// libtorch's message, for instance for a wrong shape of x or b.
pub fn packed_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, String> {
    let (x, bias) = (x.detach(), bias.map(Tensor::detach));
    let bias = bias.as_ref().map_or(ptr::null(), Tensor::as_ptr);
    // SAFETY: the tensors outlive the call; a missing bias is null.
    taken(unsafe { spsam_packed_linear(x.as_ptr().cast(), weight.as_ptr().cast(), bias.cast()) })
}

/// Takes ownership of a new tensor, or returns why there is none.
fn taken(tensor: *mut c_void) -> Result<Tensor, String> {
    if tensor.is_null() {
        // SAFETY: the text lives until this thread's next call.
        let reason = unsafe { CStr::from_ptr(spsam_packing_failed()) };
        return Err(reason.to_string_lossy().into_owned());
    }
    // SAFETY: the call made the tensor for us.
    Ok(unsafe { Tensor::from_ptr(tensor.cast()) })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::skip::skipped;

    #[test]
    fn failures_say_why() {
        let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let packed = match pack_weight(&zeros(&[4, 6]), 8) {
            Ok(packed) => packed,
            Err(reason) => {
                skipped(&reason);
                return;
            }
        };
        assert!(!packed_linear(&zeros(&[8, 5]), &packed, None).unwrap_err().is_empty());
        assert_eq!(packed_linear(&zeros(&[8, 6]), &packed, None).unwrap().size(), [8, 4]);
    }
}
