//! The network section of a bundle.

use serde::{Deserialize, Serialize};

/// Which backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// SAM ViT-B.
    VitB,
    /// SAM ViT-L.
    VitL,
    /// SAM ViT-H.
    VitH,
    /// A 6-block, 160-wide SAM ViT with 4-pixel patches, for tests and for training from scratch.
    VitTiny,
    /// LiteMedSAM's TinyViT.
    LiteMedsam,
}

/// The adapter in every transformer block (paper Table 3, S2 to S6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// No adapter (S1, S2).
    None,
    /// Down-projection, GELU, up-projection (S3).
    Vanilla,
    /// Depth MLP with a skip connection, then the vanilla adapter (S4).
    DepthBefore,
    /// The vanilla adapter, then a depth MLP with a skip connection (S5).
    DepthAfter,
    /// Depth MLP with a skip connection in the bottleneck: DFusedAdapter (S6 to S9).
    #[default]
    DepthFused,
}

/// The generator of auxiliary masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratorKind {
    /// None: prompts come from outside.
    None,
    /// Stacked convolutions on the image embedding (S1).
    Stacked,
    /// MSPGenerator (S2 to S9).
    #[default]
    MultiScale,
}

/// How the point prompt is chosen from a mask (paper Figure 3a).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointRule {
    /// The pixel farthest from the mask's border (exact Euclidean distance transform).
    #[default]
    DistanceTransform,
    /// The centre of the bounding box, whether or not it is in the mask.
    BoxCentre,
    /// A pseudo-random pixel of the mask, always the same for the same mask.
    Random,
}

/// The prompts that the decoder gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptConfig {
    /// Point prompt and its rule; absent = no point.
    #[serde(default)]
    pub point: Option<PointRule>,
    /// Box prompt. Default false.
    #[serde(default, rename = "box")]
    pub boxes: bool,
    /// Mask prompt. Default false.
    #[serde(default)]
    pub mask: bool,
}

impl Default for PromptConfig {
    /// The paper's choice: point by distance transform, box and mask.
    fn default() -> Self {
        Self { point: Some(PointRule::DistanceTransform), boxes: true, mask: true }
    }
}

/// The network: backbone and the paper's modules, each of which can be switched off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Backbone.
    pub backbone: Backbone,
    /// Side of the square model input, pixels (1024, 512 or 256 for SAM; 256 or 128 for LiteMedSAM).
    pub image_size: i64,
    /// Adapter in every block of the encoder and of the mask decoder. Default `depth_fused`.
    #[serde(default)]
    pub adapter: AdapterKind,
    /// Learnable depth position embeddings (DPosEmbed). Default true.
    #[serde(default = "default_true")]
    pub depth_position: bool,
    /// MAdapter: modalities to three channels, patch to model input size. Default true. Without it one modality is
    /// repeated three times and resized bilinearly.
    #[serde(default = "default_true")]
    pub modality_adapter: bool,
    /// Generator of auxiliary masks. Default `multi_scale`.
    #[serde(default)]
    pub generator: GeneratorKind,
    /// MC-Adapter: binary masks to classes. Default true.
    #[serde(default = "default_true")]
    pub classes_adapter: bool,
    /// Whether the MC-Adapter also gets the mask prompts, which in inference are the auxiliary masks. Not in the paper.
    /// Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub classes_adapter_prompts: bool,
    /// Whether the mask decoder gets finer features of the image encoder beside the embedding, and adds them where it
    /// upscales it. Not in the paper. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finer_features: bool,
    /// Prompts given to the decoder. Default: point by distance transform, box and mask.
    #[serde(default)]
    pub prompts: PromptConfig,
    /// Blocks whose inputs feed the generator; absent = every n-th block (paper Equation 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taps: Option<Vec<usize>>,
}

fn default_true() -> bool {
    true
}

impl NetworkConfig {
    /// Plain SAM without the paper's modules, prompted by boxes.
    pub fn plain(backbone: Backbone, image_size: i64) -> Self {
        Self {
            backbone,
            image_size,
            adapter: AdapterKind::None,
            depth_position: false,
            modality_adapter: false,
            generator: GeneratorKind::None,
            classes_adapter: false,
            classes_adapter_prompts: false,
            finer_features: false,
            prompts: PromptConfig { point: None, boxes: true, mask: false },
            taps: None,
        }
    }

    /// The paper's full model (S9).
    pub fn full(backbone: Backbone, image_size: i64) -> Self {
        Self {
            backbone,
            image_size,
            adapter: AdapterKind::DepthFused,
            depth_position: true,
            modality_adapter: true,
            generator: GeneratorKind::MultiScale,
            classes_adapter: true,
            classes_adapter_prompts: false,
            finer_features: false,
            prompts: PromptConfig::default(),
            taps: None,
        }
    }

    /// How many of the shallowest features the mask decoder gets: those of LiteMedSAM that are finer than the embedding,
    /// or the first of a ViT, which is as coarse as the embedding but holds the patches almost as they are.
    pub(crate) fn finer_levels(&self) -> usize {
        match (self.finer_features, self.backbone) {
            (false, _) => 0,
            (true, Backbone::LiteMedsam) => 2,
            (true, _) => 1,
        }
    }

    /// `[channels, side]` of the features of a slice, shallowest first, the embedding last. ViTs have the first of
    /// them once for each tap.
    pub(crate) fn levels(&self) -> Vec<[usize; 2]> {
        // Channels, and pixels of the input along a side of a token.
        let levels: &[[i64; 2]] = match self.backbone {
            Backbone::VitB => &[[768, 16], [256, 16]],
            Backbone::VitL => &[[1024, 16], [256, 16]],
            Backbone::VitH => &[[1280, 16], [256, 16]],
            Backbone::VitTiny => &[[160, 4], [256, 4]],
            Backbone::LiteMedsam => &[[64, 1], [128, 2], [160, 4], [320, 4], [256, 4]],
        };
        levels
            .iter()
            .map(|&[channels, token]| [channels, self.image_size / token].map(|n| n as usize))
            .collect()
    }
}
