//! Finer features of the image encoder for the mask decoder, which else sees only the image embedding: they are added
//! where the decoder upscales it, at two and four times its size. SAM 2 adds features there in the same way (`conv_s1` and
//! `conv_s0` in `sam2/modeling/sam/mask_decoder.py`); HQ-SAM projects the features of a ViT, which all have one size, by
//! transposed convolutions (`compress_vit_feat` in `segment_anything/modeling/mask_decoder_hq.py`). Not in the paper.

use tch::Tensor;
use tch::nn::{self, Module};

use crate::network::TapShape;
use crate::network::layers::{LayerNorm2d, gelu};

/// Sizes of [`FinerFeatures`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinerFeaturesConfig {
    /// The features, at least one. Each is 1, 2 or 4 times as large as the embedding.
    pub features: Vec<TapShape>,
    /// Side of the embedding, h = w.
    pub grid: i64,
    /// Channels of the embedding, C.
    pub channels: i64,
}

/// Projects features to what is added in the upscaling. Newly initialised, the sums are unchanged.
#[derive(Debug)]
pub struct FinerFeatures {
    projections: [(usize, Projection); 2],
}

impl FinerFeatures {
    /// Creates the weights below `vs`.
    pub fn new(vs: &nn::Path, config: &FinerFeaturesConfig) -> Self {
        let projection = |name: &str, factor: i64, channels: i64| {
            let side = factor * config.grid;
            // The finest that need not be made smaller; else the coarsest.
            let sides = config.features.iter().map(|tap| tap.height).enumerate();
            let source = sides.filter(|&(_, own)| own <= side).max_by_key(|&(_, own)| own);
            let source = source.map_or(config.features.len().saturating_sub(1), |(index, _)| index);
            let (input, own) =
                config.features.get(source).map_or((channels, side), |tap| (tap.channels, tap.height));
            let doublings = (side / own.max(1)).max(1).ilog2();
            (source, Projection::new(&(vs / name), [input, channels], doublings))
        };
        Self {
            projections: [
                projection("doubled", 2, config.channels / 4),
                projection("quadrupled", 4, config.channels / 8),
            ],
        }
    }

    /// Features, each `[D, C', h', w']`, to `[D, C/4, 2h, 2w]` and `[D, C/8, 4h, 4w]`.
    pub fn forward(&self, features: &[Tensor]) -> [Tensor; 2] {
        self.projections.each_ref().map(|(source, projection)| projection.forward(&features[*source]))
    }
}

/// A convolution 3 × 3 or, if the size must grow, transposed convolutions 2 × 2, each with normalisation and exact
/// GELU; then a convolution 1 × 1 that starts at zero.
#[derive(Debug)]
struct Projection {
    convolutions: Vec<(Convolution, LayerNorm2d)>,
    last: nn::Conv2D,
}

#[derive(Debug)]
enum Convolution {
    Same(nn::Conv2D),
    Doubling(nn::ConvTranspose2D),
}

impl Projection {
    fn new(vs: &nn::Path, [input, output]: [i64; 2], doublings: u32) -> Self {
        let same = nn::ConvConfig { padding: 1, ..Default::default() };
        let doubling = nn::ConvTransposeConfig { stride: 2, ..Default::default() };
        let zero = nn::ConvConfig {
            ws_init: nn::Init::Const(0.0),
            bs_init: nn::Init::Const(0.0),
            ..Default::default()
        };
        let convolution = |index: u32| {
            let (vs, input) = (vs / index, if index == 0 { input } else { output });
            let convolution = match doublings {
                0 => Convolution::Same(nn::conv2d(&vs / "conv", input, output, 3, same)),
                _ => Convolution::Doubling(nn::conv_transpose2d(&vs / "conv", input, output, 2, doubling)),
            };
            (convolution, LayerNorm2d::new(&(&vs / "norm"), output))
        };
        Self {
            convolutions: (0..doublings.max(1)).map(convolution).collect(),
            last: nn::conv2d(vs / "last", output, output, 1, zero),
        }
    }

    /// `[D, C', h', w']` to `[D, C'', H, W]`.
    fn forward(&self, features: &Tensor) -> Tensor {
        let x = self.convolutions.iter().fold(features.shallow_clone(), |x, (convolution, norm)| {
            let x = match convolution {
                Convolution::Same(convolution) => convolution.forward(&x),
                Convolution::Doubling(convolution) => convolution.forward(&x),
            };
            gelu(norm.forward(&x))
        });
        self.last.forward(&x)
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;

    fn projected(shapes: &[[i64; 2]]) -> ([usize; 2], [Tensor; 2]) {
        let store = VarStore::new(Device::Cpu);
        let square = |&[channels, side]: &[i64; 2]| TapShape { channels, height: side, width: side };
        let config =
            FinerFeaturesConfig { features: shapes.iter().map(square).collect(), grid: 4, channels: 32 };
        let finer = FinerFeatures::new(&store.root(), &config);
        let features: Vec<Tensor> = shapes
            .iter()
            .map(|&[channels, side]| Tensor::randn([3, channels, side, side], (Kind::Float, Device::Cpu)))
            .collect();
        (finer.projections.each_ref().map(|(source, _)| *source), finer.forward(&features))
    }

    #[test]
    fn each_size_is_made_from_the_feature_that_fits_and_starts_at_zero() {
        for (shapes, sources) in
            [(&[[5, 16], [6, 8]][..], [1, 0]), (&[[7, 4]], [0, 0]), (&[[5, 16], [6, 4]], [1, 0])]
        {
            let (used, [doubled, quadrupled]) = projected(shapes);
            assert_eq!(used, sources, "{shapes:?}");
            assert_eq!((doubled.size(), quadrupled.size()), (vec![3, 8, 8, 8], vec![3, 4, 16, 16]));
            let largest = [doubled, quadrupled].map(|x| x.abs().max().double_value(&[]));
            assert_eq!(largest, [0.0; 2]);
        }
    }
}
