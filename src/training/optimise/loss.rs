//! The loss: cross entropy plus soft Dice, for the final output and, with deep supervision, for the auxiliary masks
//! (paper section 4.2; nnU-Net's `DC_and_CE_loss` and `MemoryEfficientSoftDiceLoss`, `nnunetv2/training/loss`).
//!
//! Dice is computed per window and class and then averaged (nnU-Net's `batch_dice = false`), so that the windows of
//! a batch can be processed one after another. The background is excluded, as in nnU-Net. A class that is not in the
//! window is included; the smooth term keeps its Dice defined. Voxels with the label [`IGNORED`] are excluded from both at
//! every level, and get no gradient (nnU-Net's ignore label).

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use crate::network::generator::{AuxiliaryMasks, deep_supervision_weights};

/// Label of ignored voxels, in training and in messages. No class has it, because there are at most 255 classes,
/// from 0.
pub const IGNORED: u8 = 255;

/// Axes of a window's voxels in `[B, N, D, H, W]`.
const WITHIN: [i64; 3] = [2, 3, 4];

/// Smallest denominator of a Dice coefficient.
const LEAST: f64 = 1e-8;

/// Weights of the losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Weight of the cross entropy. Default 1.
    pub cross_entropy: f64,
    /// Weight of `1 - Dice`. Default 1.
    pub dice: f64,
    /// Added to numerator and denominator of Dice, voxels. Default 1e-5.
    pub smooth: f64,
    /// Weight of the loss of the final output. Default 1.
    pub final_output: f64,
    /// Weight of the loss of the auxiliary masks. Default 1.
    pub auxiliary: f64,
    /// Weight of the loss of the mask decoder's own masks, before the MC-Adapter combines the classes. Default 0.
    pub decoder_masks: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            cross_entropy: 1.0,
            dice: 1.0,
            smooth: 1e-5,
            final_output: 1.0,
            auxiliary: 1.0,
            decoder_masks: 0.0,
        }
    }
}

impl LossConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { cross_entropy, dice, smooth, final_output, auxiliary, decoder_masks } = *self;
        let values = [cross_entropy, dice, smooth, final_output, auxiliary, decoder_masks];
        let usable = values.iter().all(|value| *value >= 0.0 && value.is_finite());
        if usable { Ok(()) } else { Err("loss: weights must be finite and not negative".into()) }
    }

    /// Weighted sum of cross entropy and `1 - Dice`, a scalar in fp32. Logits are `[B, N, D, H, W]` of any floating
    /// type, labels `[B, D, H, W]` int64.
    pub fn of_logits(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let log_probabilities = logits.log_softmax(1, Kind::Float);
        let labels = labels.unsqueeze(1);
        let ignored = labels.eq(i64::from(IGNORED));
        if ignored.any().int64_value(&[]) == 0 {
            let entropy = -log_probabilities.gather(1, &labels, false).mean(Kind::Float);
            return self.weighted(entropy, &log_probabilities, &labels, None);
        }
        let counting = ignored.logical_not().to_kind(Kind::Float); // [B, 1, D, H, W]
        let labels = labels.masked_fill(&ignored, 0);
        let of_voxels = log_probabilities.gather(1, &labels, false) * &counting;
        let voxels = counting.sum_dim_intlist(WITHIN.as_slice(), false, Kind::Float).clamp_min(1.0); // [B, 1]
        let entropy =
            -(of_voxels.sum_dim_intlist(WITHIN.as_slice(), false, Kind::Float) / voxels).mean(Kind::Float);
        self.weighted(entropy, &log_probabilities, &labels, Some(&counting))
    }

    /// The weighted sum of cross entropy and Dice terms; `counting` is 0 in ignored voxels.
    fn weighted(
        &self,
        entropy: Tensor,
        log_probabilities: &Tensor,
        labels: &Tensor,
        counting: Option<&Tensor>,
    ) -> Tensor {
        let counted = |x: Tensor| match counting {
            Some(counting) => x * counting,
            None => x,
        };
        let foreground = log_probabilities.size()[1] - 1;
        let probabilities = counted(log_probabilities.narrow(1, 1, foreground).exp());
        let truth = one_hot(labels, log_probabilities).narrow(1, 1, foreground);
        self.of_terms(entropy, probabilities, counted(truth))
    }

    /// The weighted sum of a cross entropy and the Dice terms of foreground classes `[B, N - 1, D, H, W]`.
    fn of_terms(&self, entropy: Tensor, probabilities: Tensor, truth: Tensor) -> Tensor {
        let sum = |x: Tensor| x.sum_dim_intlist(WITHIN.as_slice(), false, Kind::Float); // [B, N - 1]
        let both = sum(&probabilities * &truth);
        let either = sum(probabilities) + sum(truth);
        let dice = (both * 2.0 + self.smooth) / (either + self.smooth).clamp_min(LEAST);
        entropy * self.cross_entropy + (dice.mean(Kind::Float) * -1.0 + 1.0) * self.dice
    }

    /// The loss of one binary mask per class, as SAM predicts them: cross entropy of a sigmoid in every class, plus Dice.
    /// Masks are logits `[B, N, D, h, w]` of any floating type; labels `[B, D, H, W]` int64 are resized to them by
    /// nearest neighbour.
    pub fn of_masks(&self, masks: &Tensor, labels: &Tensor) -> Tensor {
        let [height, width] = [3, 4].map(|axis| masks.size()[axis]);
        let labels = resize_labels(labels, [height, width]).unsqueeze(1);
        let ignored = labels.eq(i64::from(IGNORED));
        let counting = ignored.logical_not().to_kind(Kind::Float); // [B, 1, D, h, w]
        let masks = masks.to_kind(Kind::Float);
        let truth = one_hot(&labels.masked_fill(&ignored, 0), &masks);
        let entropy = masks.binary_cross_entropy_with_logits::<Tensor>(&truth, None, None, Reduction::None);
        let sum = |x: &Tensor| x.sum_dim_intlist(WITHIN.as_slice(), false, Kind::Float);
        let entropy = (sum(&(entropy * &counting)) / sum(&counting).clamp_min(1.0)).mean(Kind::Float);
        let foreground = |x: Tensor| (x * &counting).narrow(1, 1, masks.size()[1] - 1);
        self.of_terms(entropy, foreground(masks.sigmoid()), foreground(truth))
    }

    /// The loss over all levels of the generator, finest first, with weights 1, 1/2, 1/4, … divided by their sum.
    /// Labels `[B, D, H, W]` are resized to each level by nearest neighbour.
    pub fn of_auxiliary(&self, masks: &AuxiliaryMasks, labels: &Tensor) -> Tensor {
        let weights = deep_supervision_weights(masks.deep.len() + 1);
        let levels = std::iter::once(&masks.logits).chain(&masks.deep).zip(weights);
        let losses = levels.map(|(logits, weight)| {
            let [height, width] = [3, 4].map(|axis| logits.size()[axis]);
            self.of_logits(logits, &resize_labels(labels, [height, width])) * weight
        });
        losses.sum()
    }
}

/// Labels `[B, 1, D, H, W]` as a mask of each class, of the size of `like` `[B, N, D, H, W]`, in fp32.
fn one_hot(labels: &Tensor, like: &Tensor) -> Tensor {
    Tensor::zeros(like.size(), (Kind::Float, like.device())).scatter_value(1, labels, 1.0)
}

/// Labels `[B, D, H, W]` to `[B, D, height, width]`: the label at the centre of each pixel.
fn resize_labels(labels: &Tensor, [height, width]: [i64; 2]) -> Tensor {
    if labels.size()[2..] == [height, width] {
        return labels.shallow_clone();
    }
    labels
        .to_kind(Kind::Float)
        .internal_upsample_nearest_exact2d([height, width], None, None)
        .to_kind(Kind::Int64)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn random(shape: &[i64]) -> Tensor {
        tch::manual_seed(5);
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn labels(shape: &[i64]) -> Tensor {
        tch::manual_seed(6);
        Tensor::randint(3, shape, (Kind::Int64, Device::Cpu))
    }

    #[test]
    fn certain_and_right_costs_nothing() {
        let labels = labels(&[2, 3, 4, 4]);
        let logits = labels
            .unsqueeze(1)
            .repeat([1, 3, 1, 1, 1])
            .eq_tensor(&Tensor::arange(3, (Kind::Int64, Device::Cpu)).view([1, 3, 1, 1, 1]));
        let logits = logits.to_kind(Kind::Float) * 50.0;
        assert!(LossConfig::default().of_logits(&logits, &labels).double_value(&[]).abs() < 1e-6);
    }

    #[test]
    fn windows_are_averaged_as_if_each_came_alone() {
        let (logits, labels) = (random(&[3, 3, 2, 4, 4]), labels(&[3, 2, 4, 4]));
        let config = LossConfig::default();
        let together = config.of_logits(&logits, &labels).double_value(&[]);
        let alone: f64 = (0..3)
            .map(|b| config.of_logits(&logits.narrow(0, b, 1), &labels.narrow(0, b, 1)).double_value(&[]))
            .sum();
        assert!((together - alone / 3.0).abs() < 1e-6, "{together} {alone}");
    }

    #[test]
    fn an_absent_class_is_defined_and_has_a_gradient() {
        let logits = random(&[1, 3, 2, 4, 4]).set_requires_grad(true);
        let labels = Tensor::zeros([1, 2, 4, 4], (Kind::Int64, Device::Cpu));
        let loss = LossConfig::default().of_logits(&logits, &labels);
        loss.backward();
        assert!(loss.double_value(&[]).is_finite());
        assert!(bool::try_from(logits.grad().isfinite().all()).unwrap());
    }

    #[test]
    fn labels_of_a_coarser_level_are_those_at_pixel_centres() {
        let labels = Tensor::arange(16, (Kind::Int64, Device::Cpu)).view([1, 1, 4, 4]);
        let coarse = Vec::<i64>::try_from(resize_labels(&labels, [2, 2]).view(-1)).unwrap();
        assert_eq!(coarse, [5, 7, 13, 15]);
    }

    /// Equals the loss without the ignored voxels.
    #[test]
    fn ignored_voxels_are_left_out_as_if_they_were_not_there() {
        let (logits, labels) = (random(&[2, 3, 2, 4, 6]), labels(&[2, 2, 4, 6]));
        let config = LossConfig::default();
        let expected = config.of_logits(&logits.narrow(4, 0, 4), &labels.narrow(3, 0, 4)).double_value(&[]);
        let _ = labels.narrow(3, 4, 2).fill_(i64::from(IGNORED));
        let logits = logits.set_requires_grad(true);
        let loss = config.of_logits(&logits, &labels);
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6, "{loss} {expected}");
        loss.backward();
        let gradient = logits.grad();
        assert_eq!(gradient.narrow(4, 4, 2).abs().max().double_value(&[]), 0.0);
        assert!(gradient.narrow(4, 0, 4).abs().min().double_value(&[]) > 0.0);
    }

    #[test]
    fn a_window_without_a_voxel_that_counts_teaches_nothing() {
        let logits = random(&[1, 3, 2, 4, 4]).set_requires_grad(true);
        let labels = Tensor::full([1, 2, 4, 4], i64::from(IGNORED), (Kind::Int64, Device::Cpu));
        let loss = LossConfig::default().of_logits(&logits, &labels);
        loss.backward();
        assert!(loss.double_value(&[]).is_finite());
        assert_eq!(logits.grad().abs().max().double_value(&[]), 0.0);
    }

    /// Without ignored voxels the loss is the same, bit by bit, as without this feature.
    #[test]
    fn without_ignored_voxels_the_loss_is_what_it_was() {
        let (logits, labels) = (random(&[1, 3, 2, 8, 8]), labels(&[1, 2, 8, 8]));
        let log_probabilities = logits.log_softmax(1, Kind::Float);
        let index = labels.unsqueeze(1);
        let entropy = -log_probabilities.gather(1, &index, false).mean(Kind::Float);
        let probabilities = log_probabilities.narrow(1, 1, 2).exp();
        let truth = Tensor::zeros([1, 3, 2, 8, 8], (Kind::Float, Device::Cpu))
            .scatter_value(1, &index, 1.0)
            .narrow(1, 1, 2);
        let sum = |x: &Tensor| x.sum_dim_intlist([2i64, 3, 4].as_slice(), false, Kind::Float);
        let smooth = LossConfig::default().smooth;
        let both = sum(&(&probabilities * &truth)) * 2.0 + smooth;
        let dice = both / (sum(&probabilities) + sum(&truth) + smooth).clamp_min(LEAST);
        let expected = entropy * 1.0 + (dice.mean(Kind::Float) * -1.0 + 1.0) * 1.0;
        let found = LossConfig::default().of_logits(&logits, &labels);
        assert_eq!(found.double_value(&[]).to_bits(), expected.double_value(&[]).to_bits());
    }

    /// Binary cross entropy and Dice of every class, written out, at half the labels' size.
    #[test]
    fn the_loss_of_masks_is_that_of_each_class_alone() {
        let (masks, labels) = (random(&[1, 3, 2, 4, 4]), labels(&[1, 2, 8, 8]));
        let config = LossConfig { cross_entropy: 0.7, dice: 0.4, ..LossConfig::default() };
        let (mut entropy, mut dice) = (0.0, 0.0);
        for class in 0..3 {
            let (mut both, mut either) = (0.0, 0.0);
            for (slice, y, x) in (0..2).flat_map(|z| (0..4).flat_map(move |y| (0..4).map(move |x| (z, y, x))))
            {
                let is_class = labels.int64_value(&[0, slice, 2 * y + 1, 2 * x + 1]) == class;
                let probability = 1.0 / (1.0 + (-masks.double_value(&[0, class, slice, y, x])).exp());
                let likelihood = if is_class { probability } else { 1.0 - probability };
                entropy -= likelihood.ln() / (3.0 * 32.0);
                both += if is_class { probability } else { 0.0 };
                either += probability + f64::from(u8::from(is_class));
            }
            dice += if class > 0 { (2.0 * both + 1e-5) / (either + 1e-5) / 2.0 } else { 0.0 };
        }
        let found = config.of_masks(&masks, &labels).double_value(&[]);
        let expected = 0.7 * entropy + 0.4 * (1.0 - dice);
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn ignored_voxels_have_no_part_in_the_loss_of_masks() {
        let (masks, labels) = (random(&[1, 3, 2, 4, 6]), labels(&[1, 2, 4, 6]));
        let config = LossConfig::default();
        let expected = config.of_masks(&masks.narrow(4, 0, 4), &labels.narrow(3, 0, 4)).double_value(&[]);
        let _ = labels.narrow(3, 4, 2).fill_(i64::from(IGNORED));
        let masks = masks.set_requires_grad(true);
        let loss = config.of_masks(&masks, &labels);
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6, "{loss} {expected}");
        loss.backward();
        assert_eq!(masks.grad().narrow(4, 4, 2).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn ignored_voxels_stay_ignored_at_coarser_levels() {
        let quarters: Vec<i64> = (0..64).map(|at| [0, 1, 2, 255][at / 32 * 2 + at % 8 / 4]).collect();
        let labels = Tensor::from_slice(&quarters).view([1, 1, 8, 8]);
        let coarse = Vec::<i64>::try_from(resize_labels(&labels, [2, 2]).view(-1)).unwrap();
        assert_eq!(coarse, [0, 1, 2, 255]);
    }
}
