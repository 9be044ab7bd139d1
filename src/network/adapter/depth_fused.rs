//! DFusedAdapter and the adapters that the paper compares it with (section 3.1 and Table 3, S3 to S6).
//!
//! The bottleneck of Houlsby et al. (2019), with an inverted bottleneck along depth and a skip connection in its
//! middle.

use tch::Tensor;
use tch::nn::{self, Module};

use crate::bundle::AdapterKind;
use crate::network::layers::{Linear, gelu};

/// Sizes of an [`Adapter`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterConfig {
    /// Kind of adapter.
    pub kind: AdapterKind,
    /// Slices in a window, D.
    pub depth: i64,
    /// Width of the bottleneck as a fraction of the channels; 0.25 in the works that the paper builds on.
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

/// An adapter on features `[B·D, …, C]`. The caller adds its output to the adapted features. Newly initialised, its
/// output is exactly zero, so the network starts as SAM.
#[derive(Debug)]
pub struct Adapter {
    down: Linear,
    up: Linear,
    depth_mlp: Option<DepthMlp>,
    kind: AdapterKind,
}

impl Adapter {
    /// An adapter for features with `channels` channels; `None` if the configuration has no adapter.
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

    /// `[B·D, …, C]` to the same shape. The caller adds the skip connection.
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

/// Linear layers D→4D→D along depth with exact GELU and a skip connection. It mixes only slices.
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

    /// `[B·D, …, C]` to the same shape. Multiplying the weights from the left avoids transposing the features, which
    /// `matmul` would do to merge the batch into one matrix.
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
