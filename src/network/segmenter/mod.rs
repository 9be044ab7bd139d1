//! The network in the parts that the nodes run, each of which loads its own part of a bundle; and all parts in one
//! process, the reference for tests and timings of the dataflow.

mod decoder;
mod encoder;
mod fresh;
mod generator;
mod start;

pub use decoder::{DecodedMasks, Decoder};
pub use encoder::Encoder;
pub use fresh::write_fresh_weights;
pub use generator::AuxiliaryGenerator;
pub use start::Start;

use ndarray::{ArrayView2, ArrayView3, ArrayViewD, Ix4};
use rayon::prelude::*;
use tch::Tensor;
use tch::nn::VarStore;
use thiserror::Error;

use super::adapter::AdapterConfig;
use super::sam::{PromptTensorsError, TinyVitConfig, VitConfig};
use crate::bundle::{Backbone, Bundle, BundleConfig, BundleError};
use crate::compute::Compute;
use crate::prompt::{ConfiguredPrompts, PromptError, PromptStrategy, SliceMasks, SlicePrompts};
use crate::tensor::view_values;
use crate::weights::{CheckpointError, Fit, check_sha256, load_fitted, load_strict};

/// Key prefixes of a SAM checkpoint.
pub(crate) const SAM_PARTS: [&str; 3] = ["image_encoder.", "prompt_encoder.", "mask_decoder."];
/// Key prefixes of a bundle's adapter file.
const TRAINED_PARTS: [&str; 5] =
    ["modality_adapter.", "image_encoder.", "generator.", "mask_decoder.", "classes_adapter."];

/// Key prefix of the mask decoder's finer features there.
const FINER_FEATURES: &str = "mask_decoder.finer_features.";
/// Key prefixes of the rest of the mask decoder there.
const MASK_DECODER: [&str; 2] = ["mask_decoder.transformer.", "mask_decoder.depth_pos_embed"];
/// Key prefix of the convolution of mask prompts in the MC-Adapter there.
const EXPAND_PROMPTS: &str = "classes_adapter.expand_prompts.";
/// Key prefixes of the rest of the MC-Adapter there.
const CLASSES_ADAPTER: [&str; 3] =
    ["classes_adapter.expand.", "classes_adapter.norm.", "classes_adapter.shrink."];

/// Key prefixes of one part of the network in these two files.
pub(crate) struct Share {
    pub sam: &'static [&'static str],
    pub trained: &'static [&'static str],
}

/// MAdapter and image encoder.
pub(crate) const ENCODER: Share =
    Share { sam: &["image_encoder."], trained: &["modality_adapter.", "image_encoder."] };
/// Generator of auxiliary masks.
pub(crate) const GENERATOR: Share = Share { sam: &[], trained: &["generator."] };
/// Prompt encoder, mask decoder and MC-Adapter.
pub(crate) const DECODER: Share =
    Share { sam: &["prompt_encoder.", "mask_decoder."], trained: &["mask_decoder.", "classes_adapter."] };

/// Why a part cannot be loaded or cannot process a window.
#[derive(Debug, Error)]
pub enum SegmenterError {
    /// An error of the bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An error of its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Masks from which no prompts can be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Prompts that cannot be combined.
    #[error(transparent)]
    PromptTensors(#[from] PromptTensorsError),
    /// The bundle does not have this part.
    #[error("model `{model}` has no {part}: {hint}")]
    NoPart { model: String, part: &'static str, hint: &'static str },
    /// The bundle needs trained parts but names no file with them.
    #[error("model `{model}` has adapters but names no `adapters` file")]
    NoAdapters { model: String },
    /// A tensor of the wrong shape arrived.
    #[error("{what} of shape {found:?}, expected {expected}")]
    Shape { what: &'static str, found: Vec<i64>, expected: String },
}

/// Sizes derived from a bundle.
#[derive(Debug, Clone)]
struct Sizes {
    image: i64,
    grid: i64,
    patch: [i64; 2],
    classes: i64,
    adapter: AdapterConfig,
    /// Slices in a window, if the network depends on it.
    depth: Option<i64>,
}

impl Sizes {
    fn of(config: &BundleConfig) -> Self {
        let network = &config.network;
        let depth = config.patch.depth as i64;
        let adapter = AdapterConfig::new(network.adapter, depth);
        let grid = match vit_config(config) {
            Some(vit) => vit.grid(),
            None => TinyVitConfig::lite_medsam(network.image_size, adapter).grid(),
        };
        Self {
            image: network.image_size,
            grid,
            patch: config.patch.plane.size().map(|size| size as i64),
            classes: config.classes.len() as i64,
            adapter,
            depth: config.depth_is_fixed().then_some(depth),
        }
    }
}

/// The ViT configuration of a bundle; `None` for LiteMedSAM.
fn vit_config(config: &BundleConfig) -> Option<VitConfig> {
    let network = &config.network;
    let base = match network.backbone {
        Backbone::VitB => VitConfig::vit_b(network.image_size),
        Backbone::VitL => VitConfig::vit_l(network.image_size),
        Backbone::VitH => VitConfig::vit_h(network.image_size),
        Backbone::VitTiny => VitConfig::vit_tiny(network.image_size),
        Backbone::LiteMedsam => return None,
    };
    let [height, _] = config.patch.plane.size();
    let taps = network
        .taps
        .clone()
        .unwrap_or_else(|| crate::network::sam::default_taps(base.blocks, base.grid() as usize, height));
    Some(VitConfig {
        adapter: AdapterConfig::new(network.adapter, config.patch.depth as i64),
        depth_position: network.depth_position,
        taps,
        ..base
    })
}

/// Loads the variables of `sam` and `trained` from the bundle, checks the hashes, freezes all weights and converts
/// them to the type of `compute`.
fn load(
    bundle: &Bundle,
    mut sam: Option<(&mut VarStore, &[&str])>,
    trained: (&mut VarStore, &[&str]),
    compute: Compute,
) -> Result<(), SegmenterError> {
    let (trained, parts) = trained;
    if let Some((store, parts)) = &mut sam {
        load_sam(bundle, store, parts)?;
    }
    load_trained(bundle, trained, parts, None)?;
    for store in sam.map(|(store, _)| store).into_iter().chain([trained]) {
        store.freeze();
        compute.convert(store);
    }
    Ok(())
}

/// Loads the variables of `store` below `parts` from the bundle's SAM weights.
pub(crate) fn load_sam(bundle: &Bundle, store: &mut VarStore, parts: &[&str]) -> Result<(), SegmenterError> {
    let weights = &bundle.config.weights;
    let path = bundle.path_of(weights);
    check_sha256(&path, &weights.sha256)?;
    Ok(load_strict(store, &path, parts, &SAM_PARTS)?)
}

/// Loads the variables of `store` below `parts` from the bundle's adapters, and fits those of another network with `fit`.
pub(crate) fn load_trained(
    bundle: &Bundle,
    store: &mut VarStore,
    parts: &[&str],
    fit: Option<&dyn Fit>,
) -> Result<(), SegmenterError> {
    match &bundle.config.adapters {
        Some(adapters) => {
            let path = bundle.path_of(adapters);
            check_sha256(&path, &adapters.sha256)?;
            let parts = parts_in(bundle, store, parts);
            Ok(load_fitted(store, &path, &parts, &TRAINED_PARTS, fit)?)
        }
        None if store.is_empty() => Ok(()),
        None => Err(SegmenterError::NoAdapters { model: bundle.config.name.clone() }),
    }
}

/// The key prefixes below `parts` that the bundle's adapters should have. What begins without effect may be in the network
/// but not in the bundle from which its training starts.
fn parts_in<'a>(bundle: &Bundle, store: &VarStore, parts: &[&'a str]) -> Vec<&'a str> {
    let variables = store.variables();
    let is_new = |has: bool, prefix: &str| !has && variables.keys().any(|key| key.starts_with(prefix));
    let network = &bundle.config.network;
    let old = |part: &&'a str| match *part {
        "mask_decoder." if is_new(network.finer_features, FINER_FEATURES) => MASK_DECODER.to_vec(),
        "classes_adapter." if is_new(network.classes_adapter_prompts, EXPAND_PROMPTS) => {
            CLASSES_ADAPTER.to_vec()
        }
        part => vec![part],
    };
    parts.iter().flat_map(old).collect()
}

/// The prompt strategy of a bundle.
pub fn prompt_strategy(bundle: &Bundle) -> ConfiguredPrompts {
    let sizes = Sizes::of(&bundle.config);
    let mask_side = 4 * sizes.grid as usize;
    ConfiguredPrompts {
        config: bundle.config.network.prompts,
        image_size: sizes.image,
        mask_size: [mask_side, mask_side],
    }
}

/// All parts in one process.
pub struct Segmenter {
    encoder: Encoder,
    generator: Option<AuxiliaryGenerator>,
    strategy: ConfiguredPrompts,
    decoder: Decoder,
}

impl Segmenter {
    /// Loads every part of a bundle.
    ///
    /// # Errors
    /// Any [`SegmenterError`] of the parts.
    pub fn load(bundle: &Bundle, compute: Compute) -> Result<Self, SegmenterError> {
        let generator = match AuxiliaryGenerator::load(bundle, compute) {
            Ok(generator) => Some(generator),
            Err(SegmenterError::NoPart { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            encoder: Encoder::load(bundle, compute)?,
            generator,
            strategy: prompt_strategy(bundle),
            decoder: Decoder::load(bundle, compute)?,
        })
    }

    /// Logits `[D, N, imgH, imgW]` of a window `[D, M, imgH, imgW]` of which the volume covers the `covered` rows and
    /// columns (see [`Encoder::forward`]). Prompts come from `labels` (`[D, imgH, imgW]` with N classes) if given, else
    /// from the generator.
    ///
    /// # Errors
    /// Any [`SegmenterError`] of the parts.
    pub fn segment(
        &self,
        window: &Tensor,
        covered: Option<[[i64; 2]; 2]>,
        labels: Option<(ArrayView3<u8>, usize)>,
    ) -> Result<Tensor, SegmenterError> {
        tch::no_grad(|| {
            let encoded = self.encoder.forward(window, covered)?;
            let prompts = match (labels, &self.generator) {
                (Some((labels, classes)), _) => {
                    let by_slice = labels.outer_iter();
                    by_slice
                        .map(|labels: ArrayView2<u8>| {
                            self.strategy.prompts(&SliceMasks::Labels { labels, classes })
                        })
                        .collect::<Result<Vec<SlicePrompts>, _>>()?
                }
                (None, Some(generator)) => {
                    prompts_from_masks(&self.strategy, &generator.forward(&encoded.taps)?)?
                }
                (None, None) => {
                    return Err(SegmenterError::NoPart {
                        model: "given".into(),
                        part: "prompt generator",
                        hint: "give labels, from which prompts can be made",
                    });
                }
            };
            self.decoder.forward(&encoded.for_decoder(), &prompts)
        })
    }
}

/// Prompts of every slice from auxiliary masks `[D, N, imgH, imgW]`, in parallel over the slices.
///
/// # Errors
/// [`SegmenterError::Shape`], [`SegmenterError::Prompt`].
pub fn prompts_from_masks(
    strategy: &ConfiguredPrompts,
    masks: &Tensor,
) -> Result<Vec<SlicePrompts>, SegmenterError> {
    view_values(masks, |values: &[f32]| {
        let shape: Vec<usize> = masks.size().iter().map(|&size| size as usize).collect();
        let logits = ArrayViewD::from_shape(shape, values).ok();
        let Some(logits) = logits.and_then(|logits| logits.into_dimensionality::<Ix4>().ok()) else {
            return Err(SegmenterError::Shape {
                what: "auxiliary masks",
                found: masks.size(),
                expected: "[D, N, H, W]".into(),
            });
        };
        let slices: Vec<_> = logits.outer_iter().collect();
        let prompts = slices.into_par_iter().map(|logits| strategy.prompts(&SliceMasks::Logits(logits)));
        Ok(prompts.collect::<Result<_, _>>()?)
    })
}
