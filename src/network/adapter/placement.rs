//! Where the adapters are in a transformer block (paper section 3.1, after Yang et al. 2023, AIM): after the
//! attention and parallel to the MLP.

use tch::Tensor;

use super::Adapter;

/// Weight of the adapter parallel to the MLP.
const BESIDE: f64 = 0.5;

/// Adds the adapter's output to the output of the attention, `[B·D·N, …, C]` (contiguous). The adapter processes
/// each of the N = `classes` classes separately (1 if there are none) and may mix the slices of a volume.
pub fn add_after(adapter: &Option<Adapter>, attended: Tensor, classes: i64) -> Tensor {
    match adapter {
        Some(adapter) => &attended + adapt(adapter, &attended, classes),
        None => attended,
    }
}

/// Adds half of the adapter's output for `normed` to the MLP's output for it. Shapes as in [`add_after`].
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
