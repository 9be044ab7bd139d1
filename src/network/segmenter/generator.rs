//! The generator of auxiliary masks.

use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::encoder::tap_shapes;
use super::{GENERATOR, SegmenterError, Sizes, load};
use crate::bundle::{Bundle, BundleConfig};
use crate::compute::Compute;
use crate::network::generator::{AuxiliaryMasks, Generator, MspGeneratorConfig, Widths};

/// Turns features into auxiliary masks.
pub struct AuxiliaryGenerator {
    generator: Generator,
    expected: Vec<[i64; 3]>,
    sizes: Sizes,
    device: Device,
}

impl AuxiliaryGenerator {
    /// Loads the generator's part of a bundle.
    ///
    /// # Errors
    /// A bundle without generator ([`SegmenterError::NoPart`]); weights that are missing, wrong or damaged.
    pub fn load(bundle: &Bundle, compute: Compute) -> Result<Self, SegmenterError> {
        let mut trained = VarStore::new(compute.device);
        let generator = Self::new(&bundle.config, &trained).ok_or_else(|| SegmenterError::NoPart {
            model: bundle.config.name.clone(),
            part: "prompt generator",
            hint: "name a trained bundle in SPSAM_MODEL, or use dataflows/oracle.yml with labels or boxes",
        })?;
        load(bundle, None, (&mut trained, GENERATOR.trained), compute)?;
        Ok(generator)
    }

    /// Takes weights from `trained`; `None` if the configuration has no generator.
    pub fn new(config: &BundleConfig, trained: &VarStore) -> Option<Self> {
        let sizes = Sizes::of(config);
        let taps = tap_shapes(config);
        let expected = taps.iter().map(|tap| [tap.channels, tap.height, tap.width]).collect();
        let generator_config = MspGeneratorConfig {
            taps,
            classes: sizes.classes,
            patch: sizes.patch,
            depth: config.patch.depth as i64,
            widths: Widths::default(),
        };
        let generator =
            Generator::new(&(trained.root() / "generator"), config.network.generator, &generator_config)?;
        Some(Self { generator, expected, sizes, device: trained.device() })
    }

    /// Features `[D, C, h, w]` of every level, shallowest first, to logits `[D, N, imgH, imgW]` fp32.
    ///
    /// # Errors
    /// [`SegmenterError::Shape`].
    pub fn forward(&self, taps: &[Tensor]) -> Result<Tensor, SegmenterError> {
        Ok(self.auxiliary_masks(taps)?.logits.squeeze_dim(0).transpose(0, 1))
    }

    /// As [`Self::forward`], with the logits of the coarser heads for deep supervision.
    ///
    /// # Errors
    /// [`SegmenterError::Shape`].
    pub fn auxiliary_masks(&self, taps: &[Tensor]) -> Result<AuxiliaryMasks, SegmenterError> {
        let shapes: Vec<Vec<i64>> = taps.iter().map(Tensor::size).collect();
        let fits = shapes.len() == self.expected.len()
            && shapes.iter().zip(&self.expected).all(|(shape, expected)| {
                shape.len() == 4
                    && shape[1..] == expected[..]
                    && self.sizes.depth.is_none_or(|d| d == shape[0])
            });
        if !fits {
            return Err(SegmenterError::Shape {
                what: "features",
                found: shapes.concat(),
                expected: format!("levels of {:?} per slice", self.expected),
            });
        }
        let taps: Vec<Tensor> = taps.iter().map(|tap| tap.to_device(self.device)).collect();
        Ok(self.generator.forward(&taps))
    }
}
