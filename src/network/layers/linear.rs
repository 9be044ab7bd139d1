//! Linear layers that keep frozen weights packed for bf16 products on the CPU.

use std::sync::Once;

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::derived::Derived;
use crate::kernel;
use crate::tensor::{pack_weight, packed_linear, passes_gradient, with_backward};

/// x · Wᵀ + b. Differs from libtorch's layer for frozen bf16 weights on a CPU with AVX512-BF16: the weights are
/// packed once into a copy instead of on each call, and the bias is added within the product instead of being copied
/// into the result first.
#[derive(Debug)]
pub struct Linear {
    /// W `[out, in]`.
    pub ws: Tensor,
    /// b `[out]`.
    pub bs: Option<Tensor>,
    /// Packed for the number of vectors of the first call.
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
    /// `None` if a gradient must flow to the weights, or the machine or libtorch does not support packing.
    fn packed_forward(&self, x: &Tensor) -> Option<Tensor> {
        let is_frozen = !passes_gradient(&self.ws) && !self.bs.as_ref().is_some_and(passes_gradient);
        if !is_frozen || !kernel::is_bf16_here(x) || self.ws.kind() != Kind::BFloat16 {
            return None;
        }
        let rows = x.numel() as i64 / x.size().last()?.max(&1);
        if rows == 0 {
            return None;
        }
        let packed = kept(&self.packed, &self.ws, || pack_weight(&self.ws, rows))?;
        let output = packed_linear(x, &packed, self.bs.as_ref()).ok()?;
        if !passes_gradient(x) {
            return Some(output);
        }
        let weight = self.ws.shallow_clone();
        let transposed =
            kept(&self.packed_backward, &self.ws, || pack_weight(&self.ws.tr().contiguous(), rows))?;
        Some(with_backward(x, output, move |gradient| {
            packed_linear(gradient, &transposed, None).unwrap_or_else(|_| gradient.matmul(&weight))
        }))
    }
}

/// The packed copy of `weight`, made by `pack` on the first call. `None` if libtorch cannot pack, which is logged
/// once.
fn kept(place: &Derived, weight: &Tensor, pack: impl FnOnce() -> Result<Tensor, String>) -> Option<Tensor> {
    static SAID: Once = Once::new();
    let packed = place.of(&[weight], || {
        pack().unwrap_or_else(|reason| {
            SAID.call_once(|| {
                tracing::warn!("linear layers run without packed weights and are slower: {reason}")
            });
            Tensor::new()
        })
    });
    packed.defined().then_some(packed)
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::VarStore;

    use super::*;
    use crate::kernel::NO_AVX512_BF16;
    use crate::skip::skipped;

    /// A layer with frozen weights in bf16.
    fn frozen(bias: bool) -> (VarStore, Linear) {
        tch::manual_seed(1);
        let mut store = VarStore::new(Device::Cpu);
        let config = nn::LinearConfig { bias, ..Default::default() };
        let layer = Linear::from(nn::linear(store.root(), 48, 33, config));
        store.freeze();
        for mut variable in store.trainable_variables() {
            let converted = tch::no_grad(|| variable.detach().to_kind(Kind::BFloat16));
            variable.set_data(&converted);
        }
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
            if !kernel::is_bf16_here(&x) {
                skipped(NO_AVX512_BF16);
                return;
            }
            assert!(layer.packed_forward(&x).is_some(), "not packed");
            assert_eq!(found.size(), [2, 5, 7, 33]);
            assert!(difference(&found.detach(), &expected.detach()) < 1e-2);
            // The transposed output gives the gradient another layout.
            let weights = Tensor::randn([5, 2, 7, 33], (Kind::Float, Device::Cpu));
            for output in [&found, &expected] {
                (float(output).transpose(0, 1) * &weights).sum(Kind::Float).backward();
            }
            assert!(difference(&x.grad(), &exact.grad()) < 1e-2);
        }
    }

    #[test]
    fn changed_weights_are_packed_again_and_trained_ones_never_in_a_graph() {
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
        // Without a graph, trainable weights count as frozen.
        let without_graph = tch::no_grad(|| layer.packed_forward(&x));
        assert_eq!(without_graph.is_some(), kernel::is_bf16_here(&x));
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
