//! Prompts of a training step. The decoder should make use of anyone's prompts, not only of those that the model makes
//! for itself. So the kinds of prompt, their source and their accuracy can be drawn anew for every window.

mod disturb;
mod points;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, ArrayViewD, Ix4};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use tch::Tensor;

use self::disturb::{disturb_boxes, disturb_masks, disturb_presence};
use self::points::{Clicked, convert};
use super::config::TrainingConfig;
use super::optimise::IGNORED;
use super::sampling::PromptSampling;
use crate::bundle::{Bundle, PointRule, PromptConfig};
use crate::network::segmenter::{SegmenterError, prompt_strategy, prompts_from_masks};
use crate::prompt::{
    ConfiguredPrompts, PromptError, PromptStrategy, SliceMasks, SlicePrompts, labels_from_logits,
    logits_from_labels, model_from_slice, resize_bilinear,
};
use crate::tensor::view_values;

/// Odd constant that decorrelates windows (SplitMix64's second multiplier).
const SPREAD: u64 = 0x94D0_49BB_1331_11EB;

/// Makes the prompts of the windows of a training.
#[derive(Debug, Clone)]
pub struct TrainingPrompts {
    strategy: ConfiguredPrompts,
    sampling: Option<PromptSampling>,
    seed: u64,
}

/// What is drawn for a window.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    kinds: PromptConfig,
    from_labels: bool,
    /// Further points of each class in each slice.
    more_points: usize,
}

impl TrainingPrompts {
    /// As configured.
    pub fn of_config(config: &TrainingConfig) -> Self {
        let bundle = Bundle { folder: Default::default(), config: config.model.without_files() };
        Self { strategy: prompt_strategy(&bundle), sampling: config.prompts, seed: config.seed }
    }

    /// The model's own strategy, which inference uses.
    pub fn strategy(&self) -> &ConfiguredPrompts {
        &self.strategy
    }

    /// Prompts of the D slices of window number `window`, from its auxiliary masks, logits `[D, N, H, W]`, and its
    /// labels `[D, H, W]`. They depend on nothing else, so a window that is sent again has the same.
    ///
    /// # Errors
    /// Masks or labels of another shape or with values that no prompt can be made from.
    pub fn of_window(
        &self,
        window: u64,
        masks: &Tensor,
        labels: ArrayView3<'_, u8>,
    ) -> Result<Vec<SlicePrompts>, SegmenterError> {
        let Some(sampling) = &self.sampling else { return prompts_from_masks(&self.strategy, masks) };
        let wrong = || SegmenterError::Shape {
            what: "auxiliary masks",
            found: masks.size(),
            expected: format!(
                "[{}, N, {}, {}] as the labels",
                labels.dim().0,
                labels.dim().1,
                labels.dim().2
            ),
        };
        let shape: Vec<usize> = masks.size().iter().map(|&size| size as usize).collect();
        let mut rng = Pcg64::seed_from_u64(self.seed.wrapping_add(1).wrapping_mul(SPREAD) ^ window);
        let kinds = sampling.kinds(&mut rng);
        let from_labels = rng.random_bool(sampling.from_labels);
        let more_points = match (kinds.point, sampling.more_points) {
            (None, _) | (_, 0) => 0,
            (Some(_), most) => rng.random_range(0..=most),
        };
        let drawn = Drawn { kinds, from_labels, more_points };
        view_values(masks, |values: &[f32]| {
            let logits = ArrayViewD::from_shape(shape, values).ok();
            let logits =
                logits.and_then(|logits| logits.into_dimensionality::<Ix4>().ok()).ok_or_else(wrong)?;
            let (depth, _, height, width) = logits.dim();
            if labels.dim() != (depth, height, width) {
                return Err(wrong());
            }
            let slices: Vec<_> =
                logits.outer_iter().zip(labels.outer_iter()).map(|slice| (slice, rng.random())).collect();
            let of_slice = |((logits, labels), seed)| {
                self.of_slice(sampling, drawn, logits, labels, &mut Pcg64::seed_from_u64(seed))
            };
            Ok(slices.into_par_iter().map(of_slice).collect::<Result<_, _>>()?)
        })
    }

    fn of_slice(
        &self,
        sampling: &PromptSampling,
        drawn: Drawn,
        logits: ArrayView3<'_, f32>,
        labels: ArrayView2<'_, u8>,
        rng: &mut Pcg64,
    ) -> Result<SlicePrompts, PromptError> {
        let classes = logits.dim().0;
        let known: Array2<u8> = labels.mapv(|label| if label == IGNORED { 0 } else { label });
        let masks = match drawn.from_labels {
            true => SliceMasks::Labels { labels: known.view(), classes },
            false => SliceMasks::Logits(logits),
        };
        let rule = if rng.random_bool(sampling.random_point) {
            PointRule::Random
        } else {
            PointRule::DistanceTransform
        };
        let point = drawn.kinds.point.map(|_| rule);
        let config = PromptConfig { point, mask: false, ..drawn.kinds };
        let mut prompts = ConfiguredPrompts { config, ..self.strategy }.prompts(&masks)?;
        disturb_boxes(&mut prompts, sampling.box_jitter, self.strategy.image_size as f32, rng);
        disturb_presence(&mut prompts, sampling, self.strategy.image_size as f32, rng);
        if drawn.more_points > 0 {
            let predicted = labels_from_logits(logits);
            let shown = if drawn.from_labels { known.view() } else { predicted.view() };
            let clicked = Clicked { shown, predicted: predicted.view(), truth: labels };
            let mut points = clicked.points(classes, drawn.more_points, sampling, rng);
            let (height, width) = labels.dim();
            convert(&mut points, |pixel| model_from_slice(pixel, [height, width], self.strategy.image_size));
            prompts.more_points = Some(points);
        }
        if drawn.kinds.mask {
            let given: Array3<f32> = match drawn.from_labels {
                true => logits_from_labels(known.view(), classes),
                false => logits.to_owned(),
            };
            let given = disturb_masks(given, sampling.mask_noise, rng);
            prompts.masks = Some(resize_bilinear(given.view(), self.strategy.mask_size));
        }
        Ok(prompts)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::{Device, Kind};

    use super::*;

    fn prompts(sampling: Option<PromptSampling>) -> TrainingPrompts {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus.yml");
        let config = TrainingConfig { prompts: sampling, ..TrainingConfig::open(&shipped).unwrap() };
        TrainingPrompts::of_config(&config)
    }

    /// Logits `[2, 3, 32, 32]` and labels `[2, 32, 32]` with class 1 in two different places, and class 2 nowhere.
    fn window() -> (Tensor, Array3<u8>) {
        let labels = Array3::from_shape_fn((2, 32, 32), |(_, y, x)| {
            u8::from((10..20).contains(&y) && (12..24).contains(&x))
        });
        let logits = Tensor::full([2, 3, 32, 32], -4.0, (Kind::Float, Device::Cpu));
        let _ = logits.narrow(1, 0, 1).fill_(0.0);
        let _ = logits.narrow(1, 1, 1).narrow(2, 2, 5).narrow(3, 3, 6).fill_(4.0);
        (logits, labels)
    }

    fn exact() -> PromptSampling {
        PromptSampling {
            box_jitter: 0.0,
            random_point: 0.0,
            mask_noise: 0.0,
            absent: 0.0,
            present: 0.0,
            ..PromptSampling::default()
        }
    }

    #[test]
    fn without_sampling_they_are_the_models_own() {
        let (masks, labels) = window();
        let own = prompts(None);
        let expected = prompts_from_masks(own.strategy(), &masks).unwrap();
        assert_eq!(own.of_window(3, &masks, labels.view()).unwrap(), expected);
    }

    #[test]
    fn all_kinds_from_both_sources_occur_and_a_window_has_the_same_again() {
        let (masks, labels) = window();
        let sampled = prompts(Some(exact()));
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..300 {
            let slices = sampled.of_window(number, &masks, labels.view()).unwrap();
            assert_eq!(slices, sampled.of_window(number, &masks, labels.view()).unwrap());
            let slice = &slices[0];
            let source = slice.boxes.as_ref().map(|boxes| boxes[1][0] > 16.0);
            seen.insert((slice.points.is_some(), slice.boxes.is_some(), slice.masks.is_some(), source));
            assert_eq!(slice.labels, [1.0, 1.0, -1.0]);
        }
        // point, mask, point and mask; and four with boxes, from each source.
        assert_eq!(seen.len(), 3 + 2 * 4, "{seen:?}");
    }

    #[test]
    fn without_noise_they_are_those_of_the_strategy() {
        let (masks, labels) = window();
        let sampling = PromptSampling { point: 1.0, boxes: 1.0, mask: 1.0, from_labels: 0.0, ..exact() };
        let sampled = prompts(Some(sampling));
        let expected = prompts_from_masks(sampled.strategy(), &masks).unwrap();
        assert_eq!(sampled.of_window(7, &masks, labels.view()).unwrap(), expected);
    }

    #[test]
    fn windows_with_points_have_as_many_further_ones_as_are_drawn() {
        let (masks, labels) = window();
        let sampled = prompts(Some(PromptSampling { more_points: 3, ..exact() }));
        let without = prompts(Some(exact()));
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..300 {
            let slices = sampled.of_window(number, &masks, labels.view()).unwrap();
            assert_eq!(slices, sampled.of_window(number, &masks, labels.view()).unwrap());
            let plain = &without.of_window(number, &masks, labels.view()).unwrap()[0];
            assert_eq!((&slices[0].labels, &slices[0].boxes), (&plain.labels, &plain.boxes));
            assert!(plain.more_points.is_none());
            let counts: Vec<_> =
                slices.iter().map(|slice| slice.more_points.as_ref().map(Array3::dim)).collect();
            assert!(counts[0] == counts[1] && (counts[0].is_none() || slices[0].points.is_some()));
            seen.insert(counts[0]);
        }
        let expected = [None, Some((3, 1, 3)), Some((3, 2, 3)), Some((3, 3, 3))];
        assert_eq!(seen, expected.into_iter().collect());
    }

    #[test]
    fn ignored_voxels_are_prompted_as_background() {
        let (masks, mut labels) = window();
        labels[[0, 0, 0]] = IGNORED;
        let sampled = prompts(Some(PromptSampling { from_labels: 1.0, ..exact() }));
        assert!(sampled.of_window(0, &masks, labels.view()).is_ok());
    }

    #[test]
    fn labels_of_another_shape_are_refused() {
        let (masks, _) = window();
        let sampled = prompts(Some(exact()));
        let error = sampled.of_window(0, &masks, Array3::zeros((2, 32, 16)).view()).unwrap_err().to_string();
        assert!(error.contains("[2, N, 32, 16]"), "{error}");
    }
}
