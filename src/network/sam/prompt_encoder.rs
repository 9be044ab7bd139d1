//! Prompt encoder: converts points, boxes and masks to embeddings for the mask decoder
//! (`segment_anything/modeling/prompt_encoder.py`).

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::PromptTensors;
use super::common::patch_conv;
use super::random_position::RandomPosition;
use crate::network::layers::{LayerNorm2d, gelu};

/// Sizes of a [`PromptEncoder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptEncoderConfig {
    /// Channels of the embeddings, C. 256 in SAM.
    pub embed_dim: i64,
    /// Side of the square model input, pixels.
    pub image_size: i64,
    /// Side of the image embedding, h = w; mask prompts are 4h × 4w.
    pub grid: i64,
    /// Hidden channels for mask prompts. 16 in SAM.
    pub mask_channels: i64,
}

impl PromptEncoderConfig {
    /// SAM's sizes for an input of `image_size` pixels and an embedding of `grid` × `grid`.
    pub fn sam(image_size: i64, grid: i64) -> Self {
        Self { embed_dim: 256, image_size, grid, mask_channels: 16 }
    }
}

/// Converts points and boxes to tokens, and masks to an embedding of the size of the image embedding.
#[derive(Debug)]
pub struct PromptEncoder {
    pe_layer: RandomPosition,
    /// Embeddings of a background point, a foreground point, and the first and second corner of a box.
    point_embeddings: [Tensor; 4],
    not_a_point_embed: Tensor,
    mask_downscaling: MaskDownscaling,
    no_mask_embed: Tensor,
    config: PromptEncoderConfig,
}

impl PromptEncoder {
    /// Creates the weights below `vs`.
    pub fn new(vs: &nn::Path, config: &PromptEncoderConfig) -> Self {
        let embedding = |vs: nn::Path| vs.randn_standard("weight", &[1, config.embed_dim]);
        Self {
            pe_layer: RandomPosition::new(&(vs / "pe_layer"), config.embed_dim),
            point_embeddings: std::array::from_fn(|index| embedding(vs / "point_embeddings" / index)),
            not_a_point_embed: embedding(vs / "not_a_point_embed"),
            mask_downscaling: MaskDownscaling::new(&(vs / "mask_downscaling"), config),
            no_mask_embed: embedding(vs / "no_mask_embed"),
            config: config.clone(),
        }
    }

    /// Prompts of `count` = P slices and classes to sparse embeddings `[P, n, C]` (n = 0 without points and boxes)
    /// and dense embeddings `[P, C, h, w]`.
    pub fn forward(&self, prompts: &PromptTensors, count: i64) -> (Tensor, Tensor) {
        let PromptEncoderConfig { embed_dim, grid, .. } = self.config;
        let mut sparse = vec![
            self.no_mask_embed.new_empty([count, 0, embed_dim], (self.kind(), self.no_mask_embed.device())),
        ];
        if let Some((points, labels)) = &prompts.points {
            sparse.push(self.embed_points(points, labels, prompts.boxes.is_none()));
        }
        if let Some(boxes) = &prompts.boxes {
            sparse.push(self.embed_boxes(boxes, prompts.box_valid.as_ref()));
        }
        let dense = match &prompts.masks {
            Some(masks) => self.mask_downscaling.forward(&masks.to_kind(self.kind())),
            None => {
                self.no_mask_embed.view([1, embed_dim, 1, 1]).expand([count, embed_dim, grid, grid], false)
            }
        };
        (Tensor::cat(&sparse, 1), dense)
    }

    /// Positional encoding of the image embedding, `[1, C, h, w]`.
    pub fn dense_pe(&self) -> Tensor {
        self.pe_layer.of_grid(self.config.grid).unsqueeze(0).to_kind(self.kind())
    }

    /// `[P, K, 2]` and labels `[P, K]` to `[P, K, C]`. `pad` appends a not-a-point.
    fn embed_points(&self, points: &Tensor, labels: &Tensor, pad: bool) -> Tensor {
        let appended = i64::from(pad);
        let points = self.to_unit(points).constant_pad_nd([0, 0, 0, appended]);
        let labels = labels.pad([0, appended], "constant", -1.0);
        let is = |label: i64| labels.eq(label).unsqueeze(-1); // [P, K, 1]
        let [background, foreground, ..] = &self.point_embeddings;
        let kind = background.kind();
        let embedded = self.pe_layer.forward(&points).to_kind(kind)
            + background * is(0).to_kind(kind)
            + foreground * is(1).to_kind(kind);
        self.not_a_point_embed.where_self(&is(-1), &embedded)
    }

    /// `[P, 4]`, and which of them are valid `[P]`, to the two corners `[P, 2, C]`.
    fn embed_boxes(&self, boxes: &Tensor, valid: Option<&Tensor>) -> Tensor {
        let [.., first, second] = &self.point_embeddings;
        let corners = self.pe_layer.forward(&self.to_unit(&boxes.view([-1, 2, 2]))).to_kind(self.kind())
            + Tensor::cat(&[first, second], 0);
        match valid {
            None => corners,
            Some(valid) => corners.where_self(&valid.view([-1, 1, 1]), &self.not_a_point_embed),
        }
    }

    /// The type in which the encoder computes.
    pub fn kind(&self) -> Kind {
        self.no_mask_embed.kind()
    }

    /// Converts pixel indices to the position of the pixel's centre as a fraction of the image.
    fn to_unit(&self, pixels: &Tensor) -> Tensor {
        (pixels + 0.5) / self.config.image_size
    }
}

/// Converts mask logits to the size and channels of the image embedding.
#[derive(Debug)]
struct MaskDownscaling {
    first: nn::Conv2D,
    first_norm: LayerNorm2d,
    second: nn::Conv2D,
    second_norm: LayerNorm2d,
    project: nn::Conv2D,
}

impl MaskDownscaling {
    fn new(vs: &nn::Path, config: &PromptEncoderConfig) -> Self {
        let PromptEncoderConfig { embed_dim, mask_channels, .. } = *config;
        Self {
            first: patch_conv(vs / 0, 1, mask_channels / 4, 2),
            first_norm: LayerNorm2d::new(&(vs / 1), mask_channels / 4),
            second: patch_conv(vs / 3, mask_channels / 4, mask_channels, 2),
            second_norm: LayerNorm2d::new(&(vs / 4), mask_channels),
            project: patch_conv(vs / 6, mask_channels, embed_dim, 1),
        }
    }

    /// `[P, 1, 4h, 4w]` to `[P, C, h, w]`; exact GELU.
    fn forward(&self, masks: &Tensor) -> Tensor {
        let halved = gelu(self.first_norm.forward(&self.first.forward(masks)));
        let quartered = gelu(self.second_norm.forward(&self.second.forward(&halved)));
        self.project.forward(&quartered)
    }
}
