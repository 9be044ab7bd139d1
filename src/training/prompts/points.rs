//! Further points of a class, as a user clicks them: in the class, beside it, or where a first segmentation is wrong (SAM's
//! training draws the points of its later passes there: Segment Anything, appendix A, "Training algorithm").

use ndarray::{Array3, ArrayView2, s};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::training::PromptSampling;
use crate::training::optimise::IGNORED;

/// A point beside a class lies within its bounding box, made larger by this part of its sides on every side, and by at
/// least one pixel.
const MARGIN: usize = 4;

/// A slice of which points are drawn. All `[H, W]`.
pub(super) struct Clicked<'a> {
    /// The classes as the other prompts show them.
    pub shown: ArrayView2<'a, u8>,
    /// The classes of the auxiliary masks.
    pub predicted: ArrayView2<'a, u8>,
    /// The labels; there is no point in ignored pixels.
    pub truth: ArrayView2<'a, u8>,
}

impl Clicked<'_> {
    /// `count` points of each class, `[N, count, 3]`: column, row, and 1 for a point in the class or 0 for one outside. Those of
    /// classes that are not shown are none, -1.
    pub fn points(
        &self,
        classes: usize,
        count: usize,
        sampling: &PromptSampling,
        rng: &mut Pcg64,
    ) -> Array3<f32> {
        let mut points = Array3::from_shape_fn((classes, count, 3), |(_, _, part)| [0.0, 0.0, -1.0][part]);
        for class in 0..classes {
            let label = class as u8;
            let inside = self.pixels(|shown, _, truth| shown == label && truth != IGNORED);
            if inside.is_empty() {
                continue;
            }
            let wrong = self
                .pixels(|_, predicted, truth| truth != IGNORED && (predicted == label) != (truth == label));
            let beside = self.beside(label, &inside);
            for point in 0..count {
                let (is_correcting, is_negative, place) =
                    (rng.random_bool(sampling.correcting), rng.random_bool(sampling.negative), rng.random());
                let (pixels, is_in) =
                    match (is_correcting && !wrong.is_empty(), is_negative && !beside.is_empty()) {
                        (true, _) => (&wrong, None),
                        (false, true) => (&beside, Some(false)),
                        (false, false) => (&inside, Some(true)),
                    };
                let [row, column] = pixels[pick(place, pixels.len())];
                let is_in = is_in.unwrap_or(self.truth[[row, column]] == label);
                let values = [column as f32, row as f32, f32::from(u8::from(is_in))];
                points
                    .slice_mut(s![class, point, ..])
                    .iter_mut()
                    .zip(values)
                    .for_each(|(to, value)| *to = value);
            }
        }
        points
    }

    /// `[row, column]` of the pixels that `is` holds for: it gets the three classes.
    fn pixels(&self, is: impl Fn(u8, u8, u8) -> bool) -> Vec<[usize; 2]> {
        let at = |(row, column): (usize, usize)| {
            let place = [row, column];
            is(self.shown[place], self.predicted[place], self.truth[place]).then_some(place)
        };
        self.shown.indexed_iter().filter_map(|(place, _)| at(place)).collect()
    }

    /// The pixels around a class that do not belong to it.
    fn beside(&self, label: u8, inside: &[[usize; 2]]) -> Vec<[usize; 2]> {
        let [rows, columns] = [0, 1].map(|axis| {
            let along = inside.iter().map(|pixel| pixel[axis]);
            let (first, last) =
                along.fold((usize::MAX, 0), |(first, last), at| (first.min(at), last.max(at)));
            let margin = ((last + 1 - first) / MARGIN).max(1);
            first.saturating_sub(margin)..=last + margin
        });
        let mut pixels = self.pixels(|shown, _, truth| shown != label && truth != IGNORED);
        pixels.retain(|[row, column]| rows.contains(row) && columns.contains(column));
        pixels
    }
}

/// An index below `length` for a random number.
fn pick(random: u32, length: usize) -> usize {
    ((u64::from(random) * length as u64) >> u32::BITS) as usize
}

/// Converts the first two of the three values of each point.
pub(super) fn convert(points: &mut Array3<f32>, to: impl Fn([f32; 2]) -> [f32; 2]) {
    for mut point in points.rows_mut() {
        let [x, y] = to([point[0], point[1]]);
        (point[0], point[1]) = (x, y);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use rand::SeedableRng;

    use super::*;

    /// Class 1 in rows 2 to 5 and columns 3 to 8; predicted one column to the right; the last row is ignored.
    fn masks() -> (Array2<u8>, Array2<u8>) {
        let square = |first: usize| {
            Array2::from_shape_fn((12, 14), |(y, x)| {
                u8::from((2..6).contains(&y) && (first..first + 6).contains(&x))
            })
        };
        let mut truth = square(3);
        truth.row_mut(5).fill(IGNORED);
        (truth, square(4))
    }

    fn drawn(correcting: f64, negative: f64) -> Vec<[f32; 3]> {
        let (truth, predicted) = masks();
        let known = truth.mapv(|label| if label == IGNORED { 0 } else { label });
        let clicked = Clicked { shown: known.view(), predicted: predicted.view(), truth: truth.view() };
        let sampling = PromptSampling { correcting, negative, ..PromptSampling::default() };
        let points = clicked.points(3, 200, &sampling, &mut Pcg64::seed_from_u64(4));
        assert!(points.slice(s![2, .., 2]).iter().all(|&label| label == -1.0), "class 2 is not there");
        points.slice(s![1, .., ..]).rows().into_iter().map(|row| [row[0], row[1], row[2]]).collect()
    }

    fn is_in(truth: &Array2<u8>, [x, y, _]: [f32; 3]) -> bool {
        truth[[y as usize, x as usize]] == 1
    }

    #[test]
    fn points_lie_in_the_class_or_beside_it_and_say_so() {
        let (truth, _) = masks();
        let points = drawn(0.0, 0.0);
        assert!(points.iter().all(|&point| point[2] == 1.0 && is_in(&truth, point)));
        let places: std::collections::BTreeSet<_> =
            points.iter().map(|point| (point[0] as i32, point[1] as i32)).collect();
        assert!(places.len() > 12, "18 pixels, each equally likely: {places:?}");

        let points = drawn(0.0, 1.0);
        for &point in &points {
            let [x, y, label] = point;
            assert!(label == 0.0 && !is_in(&truth, point) && y != 5.0, "{point:?}");
            assert!((2.0..=9.0).contains(&x) && (1.0..=6.0).contains(&y), "{point:?}");
        }
        let negative = drawn(0.0, 0.3).iter().filter(|point| point[2] == 0.0).count();
        assert!((35..85).contains(&negative), "{negative} of 200");
    }

    #[test]
    fn correcting_points_lie_where_masks_and_labels_differ() {
        let (truth, predicted) = masks();
        let points = drawn(1.0, 0.5);
        for &point in &points {
            let [x, y, label] = point;
            assert_ne!(u8::from(is_in(&truth, point)), predicted[[y as usize, x as usize]], "{point:?}");
            assert_eq!(label == 1.0, is_in(&truth, point), "{point:?}");
            assert!(x == 3.0 || x == 9.0, "missed on the left, invented on the right: {point:?}");
            assert!(y != 5.0, "ignored");
        }
        assert!(points.iter().any(|point| point[2] == 1.0) && points.iter().any(|point| point[2] == 0.0));
    }

    #[test]
    fn where_nothing_is_wrong_there_is_nothing_to_correct() {
        let (truth, _) = masks();
        let known = truth.mapv(|label| if label == IGNORED { 0 } else { label });
        let clicked = Clicked { shown: known.view(), predicted: known.view(), truth: known.view() };
        let sampling = PromptSampling { correcting: 1.0, negative: 0.0, ..PromptSampling::default() };
        let points = clicked.points(2, 50, &sampling, &mut Pcg64::seed_from_u64(4));
        assert!(points.slice(s![.., .., 2]).iter().all(|&label| label == 1.0));
    }
}
