//! Prompt encoder, mask decoder and MC-Adapter.

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::encoder::tap_shapes;
use super::{DECODER, SegmenterError, Sizes, load};
use crate::bundle::{Bundle, BundleConfig, GeneratorKind};
use crate::compute::Compute;
use crate::network::adapter::{ClassesAdapter, FinerFeatures, FinerFeaturesConfig};
use crate::network::sam::{
    MaskDecoder, MaskDecoderConfig, PromptEncoder, PromptEncoderConfig, PromptTensors,
    TwoWayTransformerConfig,
};
use crate::prompt::SlicePrompts;

/// Channels of the image embedding.
const EMBEDDING: i64 = 256;
/// Logit of a class that is not in a slice, for plain SAM (decision 5).
const ABSENT: f64 = -20.0;

/// Most prompts decoded at once.
const MAX_PROMPTS: i64 = 16;

/// The decoder's results for D slices.
#[derive(Debug)]
pub struct DecodedMasks {
    /// The logits of one binary mask per class, before the MC-Adapter, `[D, N, 4h, 4w]`.
    pub masks: Tensor,
    /// Logits of the classes, `[D, N, imgH, imgW]` fp32.
    pub logits: Tensor,
}

/// Turns embedding and prompts into logits.
pub struct Decoder {
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    classes_adapter: Option<ClassesAdapter>,
    finer_features: Option<FinerFeatures>,
    /// Shapes `[C, h, w]` of a slice of each tensor that the decoder gets of it: embedding and finer features.
    expected: Vec<[i64; 3]>,
    /// Whether the bundle is plain SAM: the masks are combined by rule (decision 5).
    plain: bool,
    sizes: Sizes,
    device: Device,
}

impl Decoder {
    /// Loads the decoder's part of a bundle.
    ///
    /// # Errors
    /// Weights that are missing, wrong or damaged.
    pub fn load(bundle: &Bundle, compute: Compute) -> Result<Self, SegmenterError> {
        let (mut sam, mut trained) = (VarStore::new(compute.device), VarStore::new(compute.device));
        let decoder = Self::new(&bundle.config, &sam, &trained);
        load(bundle, Some((&mut sam, DECODER.sam)), (&mut trained, DECODER.trained), compute)?;
        Ok(decoder)
    }

    /// Takes frozen weights from `sam` and trained ones from `trained`.
    pub fn new(config: &BundleConfig, sam: &VarStore, trained: &VarStore) -> Self {
        let sizes = Sizes::of(config);
        let network = &config.network;
        let transformer =
            TwoWayTransformerConfig { adapter: sizes.adapter, ..TwoWayTransformerConfig::sam() };
        let decoder = MaskDecoderConfig {
            transformer,
            depth_position: network.depth_position,
            ..MaskDecoderConfig::sam(sizes.grid)
        };
        let mut finer = tap_shapes(config);
        finer.truncate(network.finer_levels());
        let embedding = [EMBEDDING, sizes.grid, sizes.grid];
        let shapes = finer.iter().map(|tap| [tap.channels, tap.height, tap.width]);
        let expected = std::iter::once(embedding).chain(shapes).collect();
        Self {
            prompt_encoder: PromptEncoder::new(
                &(sam.root() / "prompt_encoder"),
                &PromptEncoderConfig::sam(sizes.image, sizes.grid),
            ),
            mask_decoder: MaskDecoder::new(
                &(sam.root() / "mask_decoder"),
                &(trained.root() / "mask_decoder"),
                &decoder,
            ),
            classes_adapter: network.classes_adapter.then(|| {
                ClassesAdapter::new(
                    &(trained.root() / "classes_adapter"),
                    sizes.classes,
                    network.classes_adapter_prompts,
                )
            }),
            // Last, so that the other weights are drawn as without it.
            finer_features: network.finer_features.then(|| {
                let config = FinerFeaturesConfig { features: finer, grid: sizes.grid, channels: EMBEDDING };
                FinerFeatures::new(&(trained.root() / "mask_decoder" / "finer_features"), &config)
            }),
            expected,
            plain: !network.classes_adapter && network.generator == GeneratorKind::None,
            device: sam.device(),
            sizes,
        }
    }

    /// Height and width of mask prompts, four times the embedding grid.
    pub fn mask_size(&self) -> [usize; 2] {
        [4 * self.sizes.grid as usize; 2]
    }

    /// Embedding `[D, 256, h, w]`, followed by the finer features if the network has them
    /// ([`Encoded::for_decoder`](crate::network::sam::Encoded::for_decoder)), and the prompts of D slices to logits
    /// `[D, N, imgH, imgW]` fp32.
    ///
    /// In plain SAM the binary masks are combined by rule: the background has logit 0, a class without a prompt in a
    /// slice is absent, and where masks overlap the one with the smaller box (without boxes: the smaller mask) wins,
    /// because logits of different prompts cannot be compared (paper Figure 3b).
    ///
    /// # Errors
    /// Wrong shapes, or prompts that cannot be combined.
    pub fn forward(&self, embedding: &[Tensor], prompts: &[SlicePrompts]) -> Result<Tensor, SegmenterError> {
        Ok(self.decoded(embedding, prompts)?.logits)
    }

    /// As [`Decoder::forward`], with the masks from which the logits are made.
    ///
    /// # Errors
    /// Those of [`Decoder::forward`].
    pub fn decoded(
        &self,
        embedding: &[Tensor],
        prompts: &[SlicePrompts],
    ) -> Result<DecodedMasks, SegmenterError> {
        let [depth, classes] = self.check(embedding, prompts)?;
        prompts.iter().try_for_each(|slice| slice.check_place(self.sizes.image))?;
        let tensors = PromptTensors::from_slices(prompts, self.device)?;
        let (sparse, dense) = self.prompt_encoder.forward(&tensors, depth * classes);
        let kind = self.prompt_encoder.kind();
        let levels: Vec<Tensor> =
            embedding.iter().map(|level| level.to_device(self.device).to_kind(kind)).collect();
        let finer = self.finer_features.as_ref().map(|finer| finer.forward(&levels[1..]));
        let masks = self.decode((&levels[0], finer.as_ref()), (&sparse, &dense), [depth, classes]);
        let logits = self.combined(&masks, prompts, &tensors);
        Ok(DecodedMasks { masks, logits })
    }

    /// Slices and classes of a window.
    fn check(&self, embedding: &[Tensor], prompts: &[SlicePrompts]) -> Result<[i64; 2], SegmenterError> {
        let depth = prompts.len() as i64;
        let slices = self.sizes.depth.unwrap_or(depth);
        let found: Vec<Vec<i64>> = embedding.iter().map(Tensor::size).collect();
        let fits =
            |(found, expected): (&Vec<i64>, &[i64; 3])| found[..] == [&[slices], &expected[..]].concat();
        let fits = found.len() == self.expected.len() && found.iter().zip(&self.expected).all(fits);
        if !fits || depth != slices || depth == 0 {
            let expected: Vec<_> =
                self.expected.iter().map(|of_slice| [&[slices], &of_slice[..]].concat()).collect();
            return Err(SegmenterError::Shape {
                what: "embedding",
                found: found.concat(),
                expected: format!("{expected:?} for {depth} slices of prompts"),
            });
        }
        let classes = prompts.first().map_or(0, |slice| slice.labels.len()) as i64;
        if self.classes_adapter.is_some() && classes != self.sizes.classes {
            return Err(SegmenterError::Shape {
                what: "prompts",
                found: vec![classes],
                expected: format!("{} classes", self.sizes.classes),
            });
        }
        Ok([depth, classes])
    }

    /// Masks `[D, N, 4h, 4w]` to logits `[D, N, imgH, imgW]`.
    fn combined(&self, masks: &Tensor, prompts: &[SlicePrompts], tensors: &PromptTensors) -> Tensor {
        let [depth, classes] = [0, 1].map(|axis| masks.size()[axis]);
        let [height, width] = self.sizes.patch;
        if let Some(adapter) = &self.classes_adapter {
            let by_class = |x: &Tensor| x.transpose(0, 1).unsqueeze(0); // [1, N, D, 4h, 4w]
            let given = tensors.masks.as_ref().map(|given| by_class(&given.view_as(masks)));
            let logits = adapter.forward(&by_class(masks), given.as_ref(), [height, width]);
            let logits = logits.squeeze_dim(0).transpose(0, 1);
            return logits.to_kind(Kind::Float);
        }
        let logits = masks.to_kind(Kind::Float).upsample_bilinear2d([height, width], false, None, None);
        if !self.plain {
            return logits;
        }
        let present: Vec<f32> = prompts.iter().flat_map(|slice| slice.labels.iter().copied()).collect();
        let absent = Tensor::from_slice(&present).view([depth, classes, 1, 1]).to_device(self.device).lt(0.0);
        let logits = logits.masked_fill(&absent, ABSENT).narrow(1, 1, classes - 1);
        let sizes = match &tensors.boxes {
            Some(boxes) => {
                let extent = boxes.narrow(1, 2, 2) - boxes.narrow(1, 0, 2);
                extent.prod_dim_int(1, false, Kind::Float).view([depth, classes]).narrow(1, 1, classes - 1)
            }
            None => logits.gt(0.0).sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float),
        };
        let background = Tensor::zeros([depth, 1, height, width], (Kind::Float, self.device));
        Tensor::cat(&[background, yield_to_smaller(&logits, &sizes)], 1)
    }
}

impl Decoder {
    /// Masks `[D, N, 4h, 4w]`, decoded in chunks, because a whole window at once would take gigabytes. A chunk is
    /// some slices; or, if adapters mix the slices of a window, some classes, which are independent before the
    /// MC-Adapter.
    fn decode(
        &self,
        (embedding, finer): (&Tensor, Option<&[Tensor; 2]>),
        (sparse, dense): (&Tensor, &Tensor),
        [depth, classes]: [i64; 2],
    ) -> Tensor {
        let image_pe = self.prompt_encoder.dense_pe();
        let slices = if self.sizes.depth.is_some() { depth } else { (MAX_PROMPTS / classes).clamp(1, depth) };
        let at_once = (MAX_PROMPTS / slices).clamp(1, classes);
        let rows = (0..depth).step_by(slices as usize).map(|slice| {
            let slices = slices.min(depth - slice);
            let embedding = embedding.narrow(0, slice, slices);
            let finer = finer.map(|finer| finer.each_ref().map(|features| features.narrow(0, slice, slices)));
            let columns = (0..classes).step_by(at_once as usize).map(|class| {
                let count = at_once.min(classes - class);
                let part = |tensor: &Tensor| {
                    let shape = tensor.size();
                    let split = tensor.view([&[depth, classes], &shape[1..]].concat().as_slice());
                    let part = split.narrow(0, slice, slices).narrow(1, class, count);
                    part.reshape([&[slices * count], &shape[1..]].concat().as_slice())
                };
                let (sparse, dense) = (part(sparse), part(dense));
                let prompts = (&sparse, &dense);
                let (masks, _) = self.mask_decoder.forward_with(
                    &embedding,
                    &image_pe,
                    prompts,
                    count,
                    false,
                    finer.as_ref(),
                );
                masks.squeeze_dim(2)
            });
            Tensor::cat(&columns.collect::<Vec<_>>(), 1)
        });
        Tensor::cat(&rows.collect::<Vec<_>>(), 0)
    }
}

/// Negates a mask's logit where a smaller mask also covers the pixel. `masks` is `[D, N, H, W]`, `sizes` `[D, N]`.
fn yield_to_smaller(masks: &Tensor, sizes: &Tensor) -> Tensor {
    let covers = masks.gt(0.0);
    let classes = masks.size()[1];
    let result = masks.shallow_clone().copy();
    for one in 0..classes {
        for other in (0..classes).filter(|&other| other != one) {
            let difference = sizes.select(1, other) - sizes.select(1, one);
            // In case of a tie the later class wins.
            let smaller = if other > one { difference.le(0.0) } else { difference.lt(0.0) };
            let lost = covers
                .select(1, one)
                .logical_and(&covers.select(1, other))
                .logical_and(&smaller.view([-1, 1, 1]));
            let yielded = -masks.select(1, one).abs();
            result.select(1, one).copy_(&result.select(1, one).where_self(&lost.logical_not(), &yielded));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_mask_wins_where_two_overlap() {
        let masks = Tensor::from_slice(&[5.0f32, 5.0, 5.0, -1.0, 2.0, -1.0]).view([1, 2, 1, 3]);
        let values = |sizes: [f32; 2]| {
            let kept = yield_to_smaller(&masks, &Tensor::from_slice(&sizes).view([1, 2]));
            Vec::<f32>::try_from(kept.view(-1)).unwrap()
        };
        assert_eq!(values([9.0, 4.0]), [5.0, -5.0, 5.0, -1.0, 2.0, -1.0]);
        assert_eq!(values([4.0, 9.0]), [5.0, 5.0, 5.0, -1.0, -2.0, -1.0]);
    }
}
