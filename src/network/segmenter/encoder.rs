//! MAdapter and image encoder.

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::{ENCODER, SegmenterError, Sizes, load, vit_config};
use crate::bundle::{Backbone, Bundle, BundleConfig, Normalisation};
use crate::compute::Compute;
use crate::network::TapShape;
use crate::network::adapter::{ModalityAdapter, ModalityAdapterConfig, resize_to_rgb};
use crate::network::sam::{Encoded, ImageEncoderVit, TinyVit, TinyVitConfig};

/// Mean and standard deviation of the RGB values (0 to 255) that SAM was trained with
/// (`segment_anything/modeling/sam.py`).
const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

enum Network {
    Vit(ImageEncoderVit),
    TinyVit(TinyVit),
}

/// Turns slices into features.
pub struct Encoder {
    network: Network,
    modality_adapter: Option<ModalityAdapter>,
    /// `(mean, std)` `[1, 3, 1, 1]` of intensities in [0, 1], for SAM's own ViTs.
    pixel_statistics: Option<(Tensor, Tensor)>,
    /// Whether padding is zero in the network's input, as in SAM, and not in the slices.
    pads_input: bool,
    sizes: Sizes,
    modalities: i64,
    /// How many of the first features the mask decoder gets as well.
    finer: usize,
    device: Device,
}

impl Encoder {
    /// Loads the encoder's part of a bundle.
    ///
    /// # Errors
    /// Weights that are missing, wrong or damaged.
    pub fn load(bundle: &Bundle, compute: Compute) -> Result<Self, SegmenterError> {
        let (mut sam, mut trained) = (VarStore::new(compute.device), VarStore::new(compute.device));
        let encoder = Self::new(&bundle.config, &sam, &trained);
        load(bundle, Some((&mut sam, ENCODER.sam)), (&mut trained, ENCODER.trained), compute)?;
        Ok(encoder)
    }

    /// Takes frozen weights from `sam` and trained ones from `trained`.
    pub fn new(config: &BundleConfig, sam: &VarStore, trained: &VarStore) -> Self {
        let sizes = Sizes::of(config);
        let device = sam.device();
        let modalities = config.modalities.len() as i64;
        let (vs, adapters) = (sam.root() / "image_encoder", trained.root() / "image_encoder");
        let network = match vit_config(config) {
            Some(vit) => Network::Vit(ImageEncoderVit::new(&vs, &adapters, &vit)),
            None => Network::TinyVit(TinyVit::new(&vs, &adapters, &tiny_vit_config(config, &sizes))),
        };
        let modality_adapter = config.network.modality_adapter.then(|| {
            let [height, width] = sizes.patch;
            let config =
                ModalityAdapterConfig { modalities, patch: [height, width], image_size: sizes.image };
            ModalityAdapter::new(&(trained.root() / "modality_adapter"), &config)
        });
        let official_vit =
            matches!(config.network.backbone, Backbone::VitB | Backbone::VitL | Backbone::VitH);
        let unit_range =
            matches!(config.normalisation, Normalisation::Percentile { .. } | Normalisation::Window { .. });
        let statistic = |values: [f32; 3]| {
            (Tensor::from_slice(&values) / 255.0).view([1, 3, 1, 1]).to_kind(Kind::Float).to_device(device)
        };
        let pixel_statistics =
            (official_vit && unit_range).then(|| (statistic(PIXEL_MEAN), statistic(PIXEL_STD)));
        let pads_input = config.prepares_as_sam();
        let finer = config.network.finer_levels();
        Self { network, modality_adapter, pixel_statistics, pads_input, sizes, modalities, finer, device }
    }

    /// Normalised slices `[D, M, imgH, imgW]` of one window to their features. The volume covers the `covered` rows and
    /// columns, or all if `None`; the rest is padding.
    ///
    /// # Errors
    /// [`SegmenterError::Shape`].
    pub fn forward(
        &self,
        slices: &Tensor,
        covered: Option<[[i64; 2]; 2]>,
    ) -> Result<Encoded, SegmenterError> {
        let input = self.prepare(slices, covered)?;
        let encoded = match &self.network {
            Network::Vit(vit) => vit.forward(&input),
            Network::TinyVit(vit) => vit.forward(&input),
        };
        Ok(Encoded { finer: self.finer, ..encoded })
    }

    /// The input `[D, 3, S, S]` that [`Encoder::forward`] passes to the network.
    ///
    /// # Errors
    /// [`SegmenterError::Shape`].
    pub fn prepare(&self, slices: &Tensor, covered: Option<[[i64; 2]; 2]>) -> Result<Tensor, SegmenterError> {
        let [height, width] = self.sizes.patch;
        let found = slices.size();
        let fits = matches!(found[..], [depth, modalities, h, w]
            if self.sizes.depth.is_none_or(|fixed| fixed == depth)
                && [modalities, h, w] == [self.modalities, height, width]);
        if !fits {
            let depth = self.sizes.depth.map_or("D".into(), |depth| depth.to_string());
            let expected = format!("[{depth}, {}, {height}, {width}]", self.modalities);
            return Err(SegmenterError::Shape { what: "slices", found, expected });
        }
        let volume = slices.to_device(self.device).transpose(0, 1).unsqueeze(0); // [1, M, D, imgH, imgW]
        Ok(match (&self.modality_adapter, covered) {
            (Some(adapter), _) => self.standardised(adapter.forward(&volume)),
            (None, Some(covered)) if self.pads_input => self.padded(&volume, covered)?,
            (None, _) => self.standardised(resize_to_rgb(&volume, [self.sizes.image; 2])),
        })
    }

    /// Standardises intensities in [0, 1] as SAM's own ViTs expect them.
    fn standardised(&self, rgb: Tensor) -> Tensor {
        match &self.pixel_statistics {
            Some((mean, std)) => (rgb - mean) / std,
            None => rgb,
        }
    }

    /// Resizes and standardises the covered part, then pads it with zeros (`Sam.preprocess` in
    /// `segment_anything/modeling/sam.py`).
    fn padded(&self, volume: &Tensor, covered: [[i64; 2]; 2]) -> Result<Tensor, SegmenterError> {
        let (image, sides) = (self.sizes.image, self.sizes.patch);
        let is_inside = |([first, end], side): ([i64; 2], i64)| 0 <= first && first < end && end <= side;
        if !covered.into_iter().zip(sides).all(is_inside) {
            return Err(SegmenterError::Shape {
                what: "covered rows and columns",
                found: covered.concat(),
                expected: format!("parts of {sides:?}"),
            });
        }
        let part = (0..).zip(covered).fold(volume.shallow_clone(), |part, (axis, [first, end])| {
            part.narrow(3 + axis, first, end - first)
        });
        let scaled = |pixels: i64, axis: usize| {
            let pixels = pixels as f64 * image as f64 / sides[axis] as f64;
            (pixels + 0.5) as i64 // as SAM rounds
        };
        let size = [0, 1].map(|axis| scaled(covered[axis][1] - covered[axis][0], axis).clamp(1, image));
        let before = [0, 1].map(|axis| scaled(covered[axis][0], axis).min(image - size[axis]));
        let [below, right] = [0, 1].map(|axis| image - size[axis] - before[axis]);
        let rgb = self.standardised(resize_to_rgb(&part, size));
        Ok(rgb.constant_pad_nd([before[1], right, before[0], below]))
    }
}

fn tiny_vit_config(config: &BundleConfig, sizes: &Sizes) -> TinyVitConfig {
    let depth_position = config.network.depth_position;
    TinyVitConfig { depth_position, ..TinyVitConfig::lite_medsam(sizes.image, sizes.adapter) }
}

/// Shapes of the features of the bundle's encoder, shallowest first.
pub(super) fn tap_shapes(config: &BundleConfig) -> Vec<TapShape> {
    match vit_config(config) {
        Some(vit) => {
            let square = |channels| TapShape { channels, height: vit.grid(), width: vit.grid() };
            vit.taps.iter().map(|_| square(vit.embed_dim)).chain([square(vit.out_channels)]).collect()
        }
        None => tiny_vit_config(config, &Sizes::of(config)).tap_shapes(),
    }
}
