//! Where adapters sit in a transformer block (paper section 3.1, after Yang et al. 2023, AIM): after attention and
//! beside the MLP.

use tch::Tensor;

use super::Adapter;

/// Weight of an adapter beside an MLP.
const BESIDE: f64 = 0.5;

/// What attention gave, `[B·D·N, …, C]`, plus its adaptation; of each of the N = `classes` separately
/// (1 where there are no classes), slices of a volume mixed with each other. Contiguous.
pub fn add_after(adapter: &Option<Adapter>, attended: Tensor, classes: i64) -> Tensor {
    match adapter {
        Some(adapter) => &attended + adapt(adapter, &attended, classes),
        None => attended,
    }
}

/// What the MLP made of `normed`, plus half of what the adapter makes of it; shapes as in [`add_after`].
pub fn add_beside(adapter: &Option<Adapter>, mlp: Tensor, normed: &Tensor, classes: i64) -> Tensor {
    match adapter {
        Some(adapter) => mlp + adapt(adapter, normed, classes) * BESIDE,
        None => mlp,
    }
}

fn adapt(adapter: &Adapter, features: &Tensor, classes: i64) -> Tensor {
    let size = features.size();
    let (slices, channels) = (size[0] / classes, size[size.len() - 1]);
    adapter.forward(&features.view([slices, -1, channels])).view_as(features)
}
