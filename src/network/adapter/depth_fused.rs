//! DFusedAdapter and the adapters it is compared with (paper section 3.1 and Table 3, S3 to S6).
//!
//! Bottleneck of Houlsby et al. (2019) with, in its middle, an inverted bottleneck along depth with a skip.

use tch::Tensor;
use tch::nn::{self, Module};

use crate::bundle::AdapterKind;
use crate::network::layers::{Linear, gelu};

/// Sizes of an [`Adapter`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterConfig {
    /// Which adapter.
    pub kind: AdapterKind,
    /// Slices in a window, D.
    pub depth: i64,
    /// Width of the bottleneck as a fraction of the channels; the paper's relatives use 0.25.
    pub ratio: f64,
    /// Width of the depth MLP as a multiple of D.
    pub depth_ratio: i64,
}

impl AdapterConfig {
    /// The paper's sizes.
    pub fn new(kind: AdapterKind, depth: i64) -> Self {
        Self { kind, depth, ratio: 0.25, depth_ratio: 4 }
    }
}

/// An adapter on features `[B·D, …, C]`; its output is added to what it adapts by the caller and is exactly
/// zero when freshly made, so that the network starts as SAM.
#[derive(Debug)]
pub struct Adapter {
    down: Linear,
    up: Linear,
    depth_mlp: Option<DepthMlp>,
    kind: AdapterKind,
}

impl Adapter {
    /// An adapter for `channels` features; `None` where the configuration has no adapter.
    pub fn new(vs: &nn::Path, channels: i64, config: &AdapterConfig) -> Option<Self> {
        let hidden = ((channels as f64 * config.ratio) as i64).max(1);
        let zero = nn::LinearConfig {
            ws_init: nn::Init::Const(0.0),
            bs_init: Some(nn::Init::Const(0.0)),
            bias: true,
        };
        let depth_mlp = match config.kind {
            AdapterKind::None => return None,
            AdapterKind::Vanilla => None,
            AdapterKind::DepthBefore | AdapterKind::DepthFused => {
                Some(DepthMlp::new(vs, config, nn::LinearConfig::default()))
            }
            AdapterKind::DepthAfter => Some(DepthMlp::new(vs, config, zero)),
        };
        Some(Self {
            down: nn::linear(vs / "down", channels, hidden, Default::default()).into(),
            up: nn::linear(vs / "up", hidden, channels, zero).into(),
            depth_mlp,
            kind: config.kind,
        })
    }

    /// `[B·D, …, C]` to the same shape. The skip over the adapter is the caller's.
    pub fn forward(&self, features: &Tensor) -> Tensor {
        let bottleneck = |x: &Tensor| gelu(self.down.forward(x));
        match (&self.depth_mlp, self.kind) {
            (Some(depth), AdapterKind::DepthBefore) => self.up.forward(&bottleneck(&depth.forward(features))),
            (Some(depth), AdapterKind::DepthAfter) => depth.forward(&self.up.forward(&bottleneck(features))),
            (Some(depth), _) => self.up.forward(&depth.forward(&bottleneck(features))),
            (None, _) => self.up.forward(&bottleneck(features)),
        }
    }
}

/// Linear D→4D→D along depth with GELU (exact) and a skip; slices are the only thing it mixes.
#[derive(Debug)]
struct DepthMlp {
    expand: nn::Linear,
    shrink: nn::Linear,
    depth: i64,
}

impl DepthMlp {
    fn new(vs: &nn::Path, config: &AdapterConfig, last: nn::LinearConfig) -> Self {
        let AdapterConfig { depth, depth_ratio, .. } = *config;
        Self {
            expand: nn::linear(vs / "depth_expand", depth, depth * depth_ratio, Default::default()),
            shrink: nn::linear(vs / "depth_shrink", depth * depth_ratio, depth, last),
            depth,
        }
    }

    /// `[B·D, …, C]` to the same shape. The layers multiply from the left, which spares transposing the features
    /// (`matmul` would transpose them to make one matrix of the batch).
    fn forward(&self, features: &Tensor) -> Tensor {
        let by_slice = features.view([-1, self.depth, features.numel() as i64 / features.size()[0]]);
        let along_depth = |layer: &nn::Linear, x: &Tensor| {
            let weights = layer.ws.unsqueeze(0).expand([x.size()[0], -1, -1], false);
            match &layer.bs {
                Some(bias) => bias.view([1, -1, 1]).baddbmm(&weights, x, 1.0, 1.0), // [B, D', R·C]
                None => weights.bmm(x),
            }
        };
        let mixed = along_depth(&self.shrink, &gelu(along_depth(&self.expand, &by_slice)));
        (by_slice + mixed).view_as(features)
    }
}
