//! Which prompts are drawn, and how accurate they are.

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::bundle::{PointRule, PromptConfig};
use crate::prompt::MOST_POINTS;

/// Prompts that are drawn anew for every window. All figures but `box_jitter` and `more_points` are
/// probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSampling {
    /// That a window has a point per class. Kinds are drawn independently, but at least one is always there.
    pub point: f64,
    /// That it has a box per class.
    #[serde(rename = "box")]
    pub boxes: f64,
    /// That it has a mask per class.
    pub mask: f64,
    /// That the prompts of a window are made from its labels, and not from the auxiliary masks.
    pub from_labels: f64,
    /// Standard deviation by which the corners of a box are moved, as a fraction of the box's side. SAM uses 0.1.
    pub box_jitter: f64,
    /// That the points of a slice lie anywhere in their regions, and not at the deepest place.
    pub random_point: f64,
    /// Largest number of further points of a class in a window with points; it is drawn for each window. SAM's training
    /// uses 8. Default 0: none.
    pub more_points: usize,
    /// That a further point lies where auxiliary masks and labels differ, and so corrects the masks.
    pub correcting: f64,
    /// That one that corrects nothing lies beside the class, and says so.
    pub negative: f64,
    /// That a mask is eroded, dilated or coarsened.
    pub mask_noise: f64,
    /// That a class in a slice is reported as absent.
    pub absent: f64,
    /// That a class that is not in a slice is reported as present, at a random place.
    pub present: f64,
}

impl Default for PromptSampling {
    fn default() -> Self {
        Self {
            point: 0.6,
            boxes: 0.7,
            mask: 0.5,
            from_labels: 0.3,
            box_jitter: 0.1,
            random_point: 0.5,
            more_points: 0,
            correcting: 0.5,
            negative: 0.3,
            mask_noise: 0.5,
            absent: 0.02,
            present: 0.01,
        }
    }
}

impl PromptSampling {
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { point, boxes, mask, from_labels, random_point, mask_noise, .. } = *self;
        let Self { correcting, negative, absent, present, box_jitter, more_points, .. } = *self;
        let probabilities = [
            ("point", point),
            ("box", boxes),
            ("mask", mask),
            ("from_labels", from_labels),
            ("random_point", random_point),
            ("correcting", correcting),
            ("negative", negative),
            ("mask_noise", mask_noise),
            ("absent", absent),
            ("present", present),
        ];
        match probabilities.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some((name, value)) => Err(format!("prompts.{name} is {value}: expected a probability, 0 to 1")),
            None if point + boxes + mask == 0.0 => {
                Err("prompts: one of point, box and mask must be above 0".into())
            }
            None if !(0.0..=1.0).contains(&box_jitter) => {
                Err(format!("prompts.box_jitter is {box_jitter}: expected a fraction of a box, 0 to 1"))
            }
            None if more_points > MOST_POINTS => {
                Err(format!("prompts.more_points is {more_points}: expected at most {MOST_POINTS}"))
            }
            None => Ok(()),
        }
    }

    /// Draws the kinds of a window.
    pub(super) fn kinds(&self, rng: &mut Pcg64) -> PromptConfig {
        let combinations = (1..8u8).map(|bits| [0, 1, 2].map(|kind| bits >> kind & 1 == 1));
        let probabilities = [self.point, self.boxes, self.mask];
        let weight = |combination: [bool; 3]| -> f64 {
            combination.iter().zip(probabilities).map(|(&is, p)| if is { p } else { 1.0 - p }).product()
        };
        let mut left = rng.random::<f64>() * combinations.clone().map(weight).sum::<f64>();
        let mut chosen = [false; 3];
        for combination in combinations.filter(|&combination| weight(combination) > 0.0) {
            chosen = combination;
            left -= weight(combination);
            if left < 0.0 {
                break;
            }
        }
        let [point, boxes, mask] = chosen;
        PromptConfig { point: point.then_some(PointRule::DistanceTransform), boxes, mask }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn kinds_are_as_frequent_as_configured() {
        let sampling = PromptSampling { point: 0.25, boxes: 0.5, mask: 1.0, ..PromptSampling::default() };
        let mut rng = Pcg64::seed_from_u64(5);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            let kinds = sampling.kinds(&mut rng);
            for (count, is) in counts.iter_mut().zip([kinds.point.is_some(), kinds.boxes, kinds.mask]) {
                *count += i32::from(is);
            }
        }
        assert!((900..1100).contains(&counts[0]) && (1850..2150).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[2], 4000);
    }

    #[test]
    fn a_kind_with_probability_0_never_occurs_and_one_kind_always_does() {
        let sampling = PromptSampling { point: 0.0, boxes: 0.1, mask: 0.0, ..PromptSampling::default() };
        let mut rng = Pcg64::seed_from_u64(1);
        for _ in 0..100 {
            let kinds = sampling.kinds(&mut rng);
            assert_eq!((kinds.point, kinds.boxes, kinds.mask), (None, true, false));
        }
    }

    #[test]
    fn what_is_no_probability_is_refused_by_name() {
        let check = |sampling: PromptSampling| sampling.check().unwrap_err();
        assert!(check(PromptSampling { absent: 1.5, ..Default::default() }).contains("prompts.absent"));
        assert!(check(PromptSampling { box_jitter: f64::NAN, ..Default::default() }).contains("box_jitter"));
        let none = PromptSampling { point: 0.0, boxes: 0.0, mask: 0.0, ..Default::default() };
        assert!(check(none).contains("above 0"));
        let many = PromptSampling { more_points: 1000, ..Default::default() };
        assert!(check(many).contains("prompts.more_points is 1000"));
        assert!(PromptSampling::default().check().is_ok());
    }
}
