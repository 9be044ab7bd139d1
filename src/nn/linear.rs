//! Linear layers whose frozen weights lie in memory as a CPU's bf16 products read them.

use std::ffi::c_void;

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::derived::Derived;
use crate::kernel;
use crate::tensor::with_backward;

unsafe extern "C" {
    fn spsam_pack_weight(weight: *const c_void, rows: i64) -> *mut c_void;
    fn spsam_packed_linear(x: *const c_void, weight: *const c_void, bias: *const c_void) -> *mut c_void;
}

/// x · Wᵀ + b. As libtorch's own, but that frozen weights in bf16 on a CPU that multiplies it are laid out once, in a copy,
/// instead of at every call, and that the bias is added to the product where it is made instead of being copied there first.
#[derive(Debug)]
pub struct Linear {
    /// W `[out, in]`.
    pub ws: Tensor,
    /// b `[out]`.
    pub bs: Option<Tensor>,
    packed: Derived,
    packed_backward: Derived,
}

impl From<nn::Linear> for Linear {
    fn from(nn::Linear { ws, bs }: nn::Linear) -> Self {
        Self { ws, bs, packed: Derived::default(), packed_backward: Derived::default() }
    }
}

impl Module for Linear {
    /// `[…, in]` to `[…, out]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.packed_forward(x).unwrap_or_else(|| x.linear(&self.ws, self.bs.as_ref()))
    }
}

impl Linear {
    /// `None` where weights are in training, or this machine or libtorch cannot.
    fn packed_forward(&self, x: &Tensor) -> Option<Tensor> {
        let is_frozen = !self.ws.requires_grad() && !self.bs.as_ref().is_some_and(Tensor::requires_grad);
        if !is_frozen || !kernel::is_bf16_here(x) || self.ws.kind() != Kind::BFloat16 {
            return None;
        }
        let rows = x.numel() as i64 / x.size().last()?.max(&1);
        if rows == 0 {
            return None;
        }
        let packed = self.packed.of(&[&self.ws], || pack(&self.ws, rows));
        let output = multiply(&x.detach(), &packed, self.bs.as_ref())?;
        if !x.requires_grad() {
            return Some(output);
        }
        let weight = self.ws.shallow_clone();
        let packed = self.packed_backward.of(&[&self.ws], || pack(&self.ws.tr().contiguous(), rows));
        Some(with_backward(x, output, move |gradient| {
            multiply(gradient, &packed, None).unwrap_or_else(|| gradient.matmul(&weight))
        }))
    }
}

/// `weight` laid out for inputs of `rows` vectors; undefined where libtorch cannot.
fn pack(weight: &Tensor, rows: i64) -> Tensor {
    // SAFETY: a tensor that outlives the call.
    let packed = unsafe { spsam_pack_weight(weight.as_ptr().cast(), rows) };
    // SAFETY: null or a fresh tensor that becomes ours.
    if packed.is_null() { Tensor::new() } else { unsafe { Tensor::from_ptr(packed.cast()) } }
}

/// x · Wᵀ + b of a packed W.
fn multiply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Tensor> {
    if !weight.defined() {
        return None;
    }
    let bias = bias.map_or(std::ptr::null(), Tensor::as_ptr);
    // SAFETY: tensors that outlive the call, or null for a bias that is not there.
    let output = unsafe { spsam_packed_linear(x.as_ptr().cast(), weight.as_ptr().cast(), bias.cast()) };
    // SAFETY: as in `pack`.
    (!output.is_null()).then(|| unsafe { Tensor::from_ptr(output.cast()) })
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::VarStore;

    use super::*;

    /// A layer, its frozen weights converted to bf16.
    fn frozen(bias: bool) -> (VarStore, Linear) {
        tch::manual_seed(1);
        let mut store = VarStore::new(Device::Cpu);
        let config = nn::LinearConfig { bias, ..Default::default() };
        let layer = Linear::from(nn::linear(store.root(), 48, 33, config));
        store.freeze();
        crate::compute::Compute { device: Device::Cpu, kind: Kind::BFloat16 }.convert(&store);
        (store, layer)
    }

    fn input() -> Tensor {
        Tensor::randn([2, 5, 7, 48], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16)
    }

    fn difference(found: &Tensor, expected: &Tensor) -> f64 {
        let found = found.to_kind(Kind::Float);
        ((found - expected).abs().max() / expected.abs().max()).double_value(&[])
    }

    #[test]
    fn packed_weights_give_the_same_and_pass_gradients() {
        for bias in [true, false] {
            let (_store, layer) = frozen(bias);
            let x = input().set_requires_grad(true);
            let exact = x.detach().to_kind(Kind::Float).set_requires_grad(true);
            let float = |tensor: &Tensor| tensor.to_kind(Kind::Float);
            let expected = exact.linear(&float(&layer.ws), layer.bs.as_ref().map(float));
            let found = layer.forward(&x);
            if layer.packed_forward(&x).is_none() {
                println!("skipped: no AVX512-BF16, or a libtorch without oneDNN");
                return;
            }
            assert_eq!(found.size(), [2, 5, 7, 33]);
            assert!(difference(&found.detach(), &expected.detach()) < 1e-2);
            // Another layout on the way back.
            let weights = Tensor::randn([5, 2, 7, 33], (Kind::Float, Device::Cpu));
            for output in [&found, &expected] {
                (float(output).transpose(0, 1) * &weights).sum(Kind::Float).backward();
            }
            assert!(difference(&x.grad(), &exact.grad()) < 1e-2);
        }
    }

    #[test]
    fn changed_weights_are_packed_again_and_trained_ones_never() {
        let (store, layer) = frozen(true);
        let x = input();
        let before = layer.forward(&x);
        for mut variable in store.trainable_variables() {
            let _ = variable.zero_();
        }
        assert!(before.abs().max().double_value(&[]) > 0.0);
        assert_eq!(layer.forward(&x).abs().max().double_value(&[]), 0.0);
        let trained = layer.ws.shallow_clone().set_requires_grad(true);
        let layer = Linear::from(nn::Linear { ws: trained, bs: None });
        assert!(layer.packed_forward(&x).is_none());
        layer.forward(&x).sum(Kind::Float).backward();
        assert!(layer.ws.grad().defined());
    }

    #[test]
    fn other_types_and_empty_inputs_are_libtorchs() {
        let (_store, layer) = frozen(true);
        let none = input().narrow(0, 0, 0);
        assert!(layer.packed_forward(&none).is_none());
        assert_eq!(layer.forward(&none).size(), [0, 5, 7, 33]);
        assert!(layer.packed_forward(&input().to_kind(Kind::Float)).is_none());
    }
}
