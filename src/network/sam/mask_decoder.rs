//! Mask decoder (`segment_anything/modeling/mask_decoder.py`) with the paper's adapters and depth position
//! embedding (section 3.2).

use tch::Tensor;
use tch::nn::{self, Module};

use super::common::{dims, linear, upscale_conv};
use super::{TwoWayTransformer, TwoWayTransformerConfig};
use crate::network::layers::{LayerNorm2d, Linear, gelu};

/// Sizes of a [`MaskDecoder`].
#[derive(Debug, Clone, PartialEq)]
pub struct MaskDecoderConfig {
    /// The transformer, its channels and its adapters.
    pub transformer: TwoWayTransformerConfig,
    /// Number of masks with multimask output. 3 in SAM.
    pub multimask_outputs: i64,
    /// Number of linear layers of the head that predicts mask quality. 3 in SAM.
    pub iou_head_depth: usize,
    /// Hidden width of that head. 256 in SAM.
    pub iou_head_hidden_dim: i64,
    /// Side of the image embedding, h = w; only the depth position embedding depends on it.
    pub grid: i64,
    /// Whether a learned embedding of the slice's position in the window is added to the image's position encoding
    /// (DPosEmbed). Default false.
    pub depth_position: bool,
}

impl MaskDecoderConfig {
    /// SAM's sizes without the paper's modules, for embeddings of `grid` × `grid`.
    pub fn sam(grid: i64) -> Self {
        Self {
            transformer: TwoWayTransformerConfig::sam(),
            multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden_dim: 256,
            grid,
            depth_position: false,
        }
    }
}

/// Predicts masks from an image embedding and embedded prompts.
#[derive(Debug)]
pub struct MaskDecoder {
    transformer: TwoWayTransformer,
    iou_token: Tensor,
    mask_tokens: Tensor,
    output_upscaling: Upscaling,
    output_hypernetworks_mlps: Vec<Mlp>,
    iou_prediction_head: Mlp,
    depth_pos_embed: Option<Tensor>,
}

impl MaskDecoder {
    /// Creates SAM's weights below `vs` and those of the paper's modules below `adapters`, which may belong to
    /// another store.
    pub fn new(vs: &nn::Path, adapters: &nn::Path, config: &MaskDecoderConfig) -> Self {
        let channels = config.transformer.embedding_dim;
        let mask_tokens = config.multimask_outputs + 1;
        let upscaled = channels / 8;
        let hypernetwork =
            |index| Mlp::new(&(vs / "output_hypernetworks_mlps" / index), [channels, channels, upscaled], 3);
        let iou_sizes = [channels, config.iou_head_hidden_dim, mask_tokens];
        let depth_table = || {
            let (depth, grid) = (config.transformer.adapter.depth, config.grid);
            adapters.zeros("depth_pos_embed", &[depth, channels, grid, grid])
        };
        Self {
            transformer: TwoWayTransformer::new(
                &(vs / "transformer"),
                &(adapters / "transformer"),
                &config.transformer,
            ),
            iou_token: (vs / "iou_token").randn_standard("weight", &[1, channels]),
            mask_tokens: (vs / "mask_tokens").randn_standard("weight", &[mask_tokens, channels]),
            output_upscaling: Upscaling::new(&(vs / "output_upscaling"), channels),
            output_hypernetworks_mlps: (0..mask_tokens).map(hypernetwork).collect(),
            iou_prediction_head: Mlp::new(&(vs / "iou_prediction_head"), iou_sizes, config.iou_head_depth),
            depth_pos_embed: config.depth_position.then(depth_table),
        }
    }

    /// Masks of N = `classes` prompts in each of the B·D slices.
    ///
    /// `embedding` is `[B·D, C, h, w]`, `image_pe` `[1, C, h, w]`, `sparse` `[B·D·N, n, C]` and `dense` `[B·D·N, C,
    /// h, w]`, classes fastest. An expanded `dense`, the same for all, costs less. Returns mask logits `[B·D, N, K,
    /// 4h, 4w]` and predicted qualities `[B·D, N, K]`, with K = 3 for `multimask`, else 1.
    pub fn forward(
        &self,
        embedding: &Tensor,
        image_pe: &Tensor,
        (sparse, dense): (&Tensor, &Tensor),
        classes: i64,
        multimask: bool,
    ) -> (Tensor, Tensor) {
        self.forward_with(embedding, image_pe, (sparse, dense), classes, multimask, None)
    }

    /// As [`MaskDecoder::forward`], with features `[B·D, C/4, 2h, 2w]` and `[B·D, C/8, 4h, 4w]` that are added where the
    /// embedding is upscaled, to the same size, in the masks of all classes.
    pub fn forward_with(
        &self,
        embedding: &Tensor,
        image_pe: &Tensor,
        (sparse, dense): (&Tensor, &Tensor),
        classes: i64,
        multimask: bool,
        finer: Option<&[Tensor; 2]>,
    ) -> (Tensor, Tensor) {
        let [slices, channels, height, width] = dims(embedding);
        let prompts = slices * classes;
        // Without mask prompts, all classes of a slice share the same image embedding.
        let image = if dense.stride()[0] == 0 {
            embedding + dense.narrow(0, 0, 1)
        } else {
            (embedding.unsqueeze(1) + dense.reshape([slices, classes, channels, height, width]))
                .view([prompts, channels, height, width])
        };
        let output_tokens = Tensor::cat(&[&self.iou_token, &self.mask_tokens], 0);
        let [output_count, _] = dims(&output_tokens);
        let output_tokens = output_tokens.unsqueeze(0).expand([prompts, output_count, channels], false);
        let tokens = Tensor::cat(&[&output_tokens, sparse], 1);
        let image_pe = match &self.depth_pos_embed {
            Some(depth_pos_embed) => image_pe + depth_pos_embed,
            None => image_pe.shallow_clone(),
        };
        let (tokens, image) = self.transformer.forward(&image, &image_pe, &tokens, classes);

        let image = image.transpose(1, 2).reshape([prompts, channels, height, width]);
        let upscaled = self.output_upscaling.forward(&image, finer); // [P, C/8, 4h, 4w]
        let [.., mask_height, mask_width] = dims::<4>(&upscaled);
        let [mask_count, _] = dims(&self.mask_tokens);
        let (first, count) = if multimask { (1, mask_count - 1) } else { (0, 1) };
        let weights: Vec<Tensor> = (first..first + count)
            .zip(self.output_hypernetworks_mlps.iter().skip(first as usize))
            .map(|(index, mlp)| mlp.forward(&tokens.select(1, 1 + index)))
            .collect();
        let masks = Tensor::stack(&weights, 1).bmm(&upscaled.flatten(2, 3)).view([
            slices,
            classes,
            count,
            mask_height,
            mask_width,
        ]);
        let qualities = self.iou_prediction_head.forward(&tokens.select(1, 0)).narrow(1, first, count);
        (masks, qualities.reshape([slices, classes, count]))
    }
}

/// Two transposed convolutions with exact GELU. Features are added as in SAM 2 (`sam2/modeling/sam/mask_decoder.py`).
#[derive(Debug)]
struct Upscaling {
    first: nn::ConvTranspose2D,
    first_norm: LayerNorm2d,
    second: nn::ConvTranspose2D,
}

impl Upscaling {
    fn new(vs: &nn::Path, channels: i64) -> Self {
        Self {
            first: upscale_conv(vs / 0, channels, channels / 4),
            first_norm: LayerNorm2d::new(&(vs / 1), channels / 4),
            second: upscale_conv(vs / 3, channels / 4, channels / 8),
        }
    }

    /// `[P, C, h, w]` to `[P, C/8, 4h, 4w]`.
    fn forward(&self, x: &Tensor, finer: Option<&[Tensor; 2]>) -> Tensor {
        let [to_doubled, to_quadrupled] = [0, 1].map(|level| finer.map(|finer| &finer[level]));
        let doubled = add_to_classes(self.first.forward(x), to_doubled);
        let doubled = gelu(self.first_norm.forward(&doubled));
        gelu(add_to_classes(self.second.forward(&doubled), to_quadrupled))
    }
}

/// Adds features `[B·D, C, H, W]` to those of all classes, `[B·D·N, C, H, W]`, classes fastest.
fn add_to_classes(x: Tensor, features: Option<&Tensor>) -> Tensor {
    let Some(features) = features else { return x };
    let [slices, channels, height, width] = dims(features);
    let by_slice = x.reshape([slices, -1, channels, height, width]);
    (by_slice + features.unsqueeze(1)).reshape(x.size())
}

/// Linear layers with ReLU between them.
#[derive(Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// `depth` layers from `input` through `hidden` to `output` channels.
    fn new(vs: &nn::Path, [input, hidden, output]: [i64; 3], depth: usize) -> Self {
        let layer = |index| {
            let from = if index == 0 { input } else { hidden };
            let to = if index + 1 == depth { output } else { hidden };
            linear(vs / "layers" / index, from, to)
        };
        Self { layers: (0..depth).map(layer).collect() }
    }

    /// `[P, input]` to `[P, output]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x.shallow_clone(), |x, (index, layer)| {
            let x = layer.forward(&x);
            if index < last { x.relu() } else { x }
        })
    }
}
