//! Errors that users and other programs make in prompts.

use std::f64::consts::TAU;

use ndarray::{Array3, ArrayView2, Axis, Zip};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::prompt::{SlicePrompts, resize_bilinear};
use crate::training::PromptSampling;

/// A corner is moved by at most so many standard deviations.
const MOST_DEVIATIONS: f32 = 2.0;
/// A mask is eroded or dilated by 1 to this many pixels.
const MOST_PIXELS: usize = 2;

/// Moves both corners of each box. Boxes stay in the image of `side` pixels and do not turn inside out.
pub(super) fn disturb_boxes(prompts: &mut SlicePrompts, deviation: f64, side: f32, rng: &mut Pcg64) {
    let SlicePrompts { labels, boxes: Some(boxes), .. } = prompts else { return };
    for (bounds, _) in boxes.iter_mut().zip(labels).filter(|(_, label)| **label > 0.0) {
        for axis in 0..2 {
            let (first, last) = (bounds[axis], bounds[axis + 2]);
            let moved = [first, last].map(|corner| {
                let deviations = (normal(rng) as f32).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS);
                (corner + deviations * deviation as f32 * (last - first + 1.0)).clamp(0.0, side - 1.0)
            });
            (bounds[axis], bounds[axis + 2]) = (moved[0].min(moved[1]), moved[0].max(moved[1]));
        }
    }
}

/// Reports present classes as absent, and absent ones as present at a random place.
pub(super) fn disturb_presence(
    prompts: &mut SlicePrompts,
    sampling: &PromptSampling,
    side: f32,
    rng: &mut Pcg64,
) {
    for class in 0..prompts.labels.len() {
        let is_present = prompts.labels[class] > 0.0;
        if !rng.random_bool(if is_present { sampling.absent } else { sampling.present }) {
            continue;
        }
        let corners = [(); 2].map(|()| [(); 2].map(|()| rng.random::<f32>() * (side - 1.0)));
        let [first, last] =
            [f32::min, f32::max].map(|of| [0, 1].map(|axis| of(corners[0][axis], corners[1][axis])));
        let (label, point, bounds) = match is_present {
            true => (-1.0, [0.0; 2], [0.0; 4]),
            false => {
                let centre = [0, 1].map(|axis| (first[axis] + last[axis]) / 2.0);
                (1.0, centre, [first[0], first[1], last[0], last[1]])
            }
        };
        prompts.labels[class] = label;
        if let Some(points) = &mut prompts.points {
            points[class] = point;
        }
        if let Some(boxes) = &mut prompts.boxes {
            boxes[class] = bounds;
        }
    }
}

/// Erodes, dilates or coarsens each of the masks `[N, H, W]` with the given probability.
pub(super) fn disturb_masks(mut masks: Array3<f32>, probability: f64, rng: &mut Pcg64) -> Array3<f32> {
    for mut mask in masks.outer_iter_mut() {
        if !rng.random_bool(probability) {
            continue;
        }
        let disturbed = match rng.random_range(0..3) {
            0 => spread(mask.view(), rng.random_range(1..=MOST_PIXELS), f32::min),
            1 => spread(mask.view(), rng.random_range(1..=MOST_PIXELS), f32::max),
            _ => coarsen(mask.view(), rng.random_range(2..=4)),
        };
        mask.assign(&disturbed.index_axis(Axis(0), 0));
    }
    masks
}

/// The smallest or largest value within `pixels` rows and columns, `[1, H, W]`.
fn spread(mask: ArrayView2<'_, f32>, pixels: usize, of: fn(f32, f32) -> f32) -> Array3<f32> {
    let mut spread = mask.to_owned();
    for axis in [Axis(0), Axis(1)] {
        for _ in 0..pixels {
            let before = spread.clone();
            let (all_but_last, all_but_first) =
                (before.slice_axis(axis, (..-1).into()), before.slice_axis(axis, (1..).into()));
            Zip::from(spread.slice_axis_mut(axis, (1..).into()))
                .and(&all_but_last)
                .for_each(|value, &other| *value = of(*value, other));
            Zip::from(spread.slice_axis_mut(axis, (..-1).into()))
                .and(&all_but_first)
                .for_each(|value, &other| *value = of(*value, other));
        }
    }
    spread.insert_axis(Axis(0))
}

/// The mask at a coarser resolution, as a deeper level of the generator or a small network would give it, `[1, H, W]`.
fn coarsen(mask: ArrayView2<'_, f32>, by: usize) -> Array3<f32> {
    let (height, width) = mask.dim();
    let coarse = [height, width].map(|size| size.div_ceil(by));
    let mean = Array3::from_shape_fn((1, coarse[0], coarse[1]), |(_, row, column)| {
        let rows = row * by..((row + 1) * by).min(height);
        let (mut sum, mut count) = (0.0, 0.0f32);
        for y in rows {
            for x in column * by..((column + 1) * by).min(width) {
                (sum, count) = (sum + mask[[y, x]], count + 1.0);
            }
        }
        sum / count
    });
    resize_bilinear(mean.view(), [height, width])
}

/// A normal deviate (Box and Muller).
fn normal(rng: &mut Pcg64) -> f64 {
    let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};
    use rand::SeedableRng;

    use super::*;

    fn square() -> Array2<f32> {
        let mut mask = Array2::from_elem((12, 12), -3.0);
        mask.slice_mut(s![4..8, 3..9]).fill(5.0);
        mask
    }

    #[test]
    fn masks_are_eroded_and_dilated_by_pixels() {
        let inside = |mask: &Array3<f32>| mask.iter().filter(|&&logit| logit > 0.0).count();
        assert_eq!(inside(&spread(square().view(), 1, f32::min)), 2 * 4);
        assert_eq!(inside(&spread(square().view(), 1, f32::max)), 6 * 8);
        assert_eq!(inside(&spread(square().view(), 2, f32::max)), 8 * 10);
        let row = Array2::from_elem((1, 5), 1.0);
        assert_eq!(inside(&spread(row.view(), 2, f32::min)), 5);
    }

    #[test]
    fn a_coarser_mask_keeps_its_mean_inside() {
        let coarse = coarsen(Array2::from_elem((7, 9), 2.0).view(), 4);
        assert!(coarse.dim() == (1, 7, 9) && coarse.iter().all(|&value| (value - 2.0).abs() < 1e-6));
    }

    #[test]
    fn boxes_move_by_a_fraction_of_their_size_and_stay_boxes() {
        let mut rng = Pcg64::seed_from_u64(3);
        let (mut shifts, count) = (0.0, 2000);
        for _ in 0..count {
            let mut prompts = SlicePrompts {
                labels: vec![1.0, -1.0],
                points: None,
                more_points: None,
                boxes: Some(vec![[40.0, 10.0, 59.0, 13.0], [0.0; 4]]),
                masks: None,
            };
            disturb_boxes(&mut prompts, 0.1, 64.0, &mut rng);
            let boxes = prompts.boxes.unwrap();
            let [x0, y0, x1, y1] = boxes[0];
            assert!(x0 <= x1 && y0 <= y1 && x0 >= 0.0 && x1 <= 63.0 && (x0 - 40.0).abs() <= 4.01);
            assert_eq!(boxes[1], [0.0; 4]);
            shifts += (x0 - 40.0).powi(2);
        }
        // A normal distribution cut at two deviations keeps 0.92 of its variance if what lies beyond is put there.
        let deviation = (shifts / count as f32).sqrt();
        assert!((1.7..2.1).contains(&deviation), "{deviation}");
    }

    #[test]
    fn classes_are_reported_wrongly_as_often_as_configured() {
        let sampling = PromptSampling { absent: 0.5, present: 0.25, ..PromptSampling::default() };
        let mut rng = Pcg64::seed_from_u64(9);
        let mut counts = [0; 2];
        for _ in 0..2000 {
            let mut prompts = SlicePrompts {
                labels: vec![1.0, -1.0],
                points: Some(vec![[5.0, 5.0], [0.0; 2]]),
                more_points: None,
                boxes: Some(vec![[1.0, 1.0, 9.0, 9.0], [0.0; 4]]),
                masks: None,
            };
            disturb_presence(&mut prompts, &sampling, 64.0, &mut rng);
            let (points, boxes) = (prompts.points.unwrap(), prompts.boxes.unwrap());
            for class in 0..2 {
                let [x0, y0, x1, y1] = boxes[class];
                assert!((x0..=x1).contains(&points[class][0]) && (y0..=y1).contains(&points[class][1]));
                assert!((0.0..64.0).contains(&x1) && (0.0..64.0).contains(&y1));
            }
            counts[0] += i32::from(prompts.labels[0] < 0.0);
            counts[1] += i32::from(prompts.labels[1] > 0.0);
        }
        assert!((900..1100).contains(&counts[0]) && (400..600).contains(&counts[1]), "{counts:?}");
    }
}
