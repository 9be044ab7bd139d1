//! The decoder of both generators: starts at the deepest tap, doubles the size in steps, and merges the shallower
//! taps.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::layers::{ConvBlock, Convolution, DepthConvolution, Doubling};
use super::plan::{Step, steps};
use super::{AuxiliaryMasks, MspGeneratorConfig};
use crate::network::TapShape;
use crate::tensor::channels_last;

/// Convolution blocks from the size of the deepest tap to that of the patch, with a head at each size.
#[derive(Debug)]
pub(super) struct Decoder {
    levels: Vec<Level>,
    config: MspGeneratorConfig,
}

/// One size, and the tap that is merged at it.
#[derive(Debug)]
struct Level {
    doubling: Option<Doubling>,
    tap: Option<Tap>,
    depth_conv: Option<DepthConvolution>,
    block: ConvBlock,
    head: nn::Conv2D,
}

impl Decoder {
    /// A decoder for `config.taps`. If `mixes_depth`, the deepest level has a convolution along depth.
    pub fn new(vs: &nn::Path, config: &MspGeneratorConfig, mixes_depth: bool) -> Self {
        let mut levels: Vec<Level> = Vec::new();
        let plan = steps(&config.taps, config.patch);
        let finest = plan.last().map_or(0, |step| step.doublings);
        let mut before: Option<Step> = None;
        for (number, &step) in plan.iter().enumerate() {
            let vs = &(vs / "levels" / number);
            let width_at = |doublings: u32| config.widths.at(finest - doublings);
            let width = width_at(step.doublings);
            let tap = step.tap.map(|tap| {
                let joining = if before.is_none() { 1 } else { 2 };
                Tap::new(&(vs / "tap"), config, step, tap, &|doublings| {
                    (width_at(doublings) / joining).max(1)
                })
            });
            let doubling = before.filter(|before| before.doublings < step.doublings).map(|before| {
                Doubling::new(&(vs / "doubling"), [width_at(before.doublings), width], config.depth)
            });
            let current = if before.is_some() { width } else { 0 };
            let input = current + tap.as_ref().map_or(0, |tap| tap.channels);
            levels.push(Level {
                doubling,
                tap,
                depth_conv: (mixes_depth && before.is_none())
                    .then(|| DepthConvolution::new(&(vs / "depth_conv"), input, config.depth)),
                block: ConvBlock::new(&(vs / "block"), [input, width], config.depth),
                head: head(vs / "head", width, config.classes),
            });
            before = Some(step);
        }
        Self { levels, config: config.clone() }
    }

    /// Taps, each `[B·D, C, h, w]`, shallowest first, to masks.
    pub fn forward(&self, taps: &[Tensor]) -> AuxiliaryMasks {
        let mut features: Option<Tensor> = None;
        let mut heads = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            let current = features.map(|x| match &level.doubling {
                Some(doubling) => doubling.forward(&x),
                None => x,
            });
            let size = current.as_ref().map(|x| [x.size()[2], x.size()[3]]);
            let joining = level.tap.as_ref().map(|tap| tap.forward(&taps[tap.index], size));
            let parts: Vec<Tensor> = current.into_iter().chain(joining).collect();
            let mut x = Tensor::cat(&parts, 1);
            if let Some(conv) = &level.depth_conv {
                x = conv.forward(&x);
            }
            let x = level.block.forward(&x);
            heads.push(level.head.forward(&x));
            features = Some(x);
        }
        heads.reverse();
        let patch = self.config.patch;
        let mut heads = heads.into_iter();
        let finest = heads.next().map_or_else(Tensor::new, |logits| resize(logits, patch));
        AuxiliaryMasks {
            logits: self.by_volume(&finest),
            deep: heads.map(|logits| self.by_volume(&logits)).collect(),
        }
    }

    /// `[B·D, N, h, w]` to contiguous `[B, N, D, h, w]` fp32.
    fn by_volume(&self, logits: &Tensor) -> Tensor {
        let size = logits.size();
        logits
            .view([-1, self.config.depth, size[1], size[2], size[3]])
            .transpose(1, 2)
            .contiguous()
            .to_kind(Kind::Float)
    }
}

/// 1×1 convolution to the classes. Its weights are small, so that training starts from nearly equal probabilities.
fn head(vs: nn::Path, width: i64, classes: i64) -> nn::Conv2D {
    let bound = 1.0 / (width as f64).sqrt();
    let ws_init = nn::Init::Uniform { lo: -bound, up: bound };
    nn::conv2d(vs, width, classes, 1, nn::ConvConfig { ws_init, ..Default::default() })
}

/// Brings a tap to the channels and size of the step that merges it: a 1×1 convolution, then 2× upsamplings.
#[derive(Debug)]
struct Tap {
    index: usize,
    /// Channels after the conversion.
    channels: i64,
    reduce: Convolution,
    doublings: Vec<Doubling>,
}

impl Tap {
    /// For tap number `index`, merged at `step`. `width_at` gives the channels at each size.
    fn new(
        vs: &nn::Path,
        config: &MspGeneratorConfig,
        step: Step,
        index: usize,
        width_at: &dyn Fn(u32) -> i64,
    ) -> Self {
        let TapShape { channels, height, width } = config.taps[index];
        let deepest = config.taps.last().map_or(1, |tap| tap.height.max(tap.width));
        let own = (height.max(width) / deepest).max(1).ilog2().min(step.doublings);
        let doubling = |doublings: u32| {
            let channels = [width_at(doublings), width_at(doublings + 1)];
            Doubling::new(&(vs / "doublings" / (doublings - own)), channels, config.depth)
        };
        Self {
            index,
            channels: width_at(step.doublings),
            reduce: Convolution::new(&(vs / "reduce"), [channels, width_at(own)], 1, config.depth),
            doublings: (own..step.doublings).map(doubling).collect(),
        }
    }

    /// `[B·D, C, h, w]` to `[B·D, channels, …size]`.
    fn forward(&self, tap: &Tensor, size: Option<[i64; 2]>) -> Tensor {
        let reduced = self.reduce.forward(&channels_last(&tap.to_kind(self.reduce.kind())));
        let x = self.doublings.iter().fold(reduced, |x, doubling| doubling.forward(&x));
        match size {
            Some([height, width]) if x.size()[2] > height || x.size()[3] > width => {
                x.adaptive_avg_pool2d([height, width])
            }
            Some(size) => resize(x, size),
            None => x,
        }
    }
}

/// Bilinear resizing with `align_corners = false`. Returns the image itself if it already has the size.
fn resize(x: Tensor, [height, width]: [i64; 2]) -> Tensor {
    if x.size()[2..] == [height, width] {
        x
    } else {
        x.upsample_bilinear2d([height, width], false, None, None)
    }
}
