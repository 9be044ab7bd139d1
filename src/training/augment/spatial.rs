//! Cuts a window out of a case and rotates and scales it about its centre in the same pass (batchgeneratorsv2's
//! `SpatialTransform`): images trilinearly with zeros outside; labels by the class with the largest total weight of
//! the eight neighbours.

use ndarray::{Array3, Array4, ArrayView3, ArrayView4};

/// Smaller weights of neighbours count as 0.
const LEAST_SHARE: f32 = 1e-6;

/// Position of a window in its case.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    start: [isize; 3],
    patch: [usize; 3],
    /// Maps offsets from the window's centre to offsets in the case; `None` = identity.
    turn: Option<[[f64; 3]; 3]>,
}

/// The two neighbours of a position along an axis, without those outside the case.
#[derive(Clone, Copy)]
struct Neighbours {
    index: [Option<usize>; 2],
    share: [f32; 2],
}

impl Neighbours {
    fn of(position: f64, length: usize) -> Self {
        let low = position.floor();
        let weight = (position - low) as f32;
        let inside = |index: f64| (index >= 0.0 && index < length as f64).then_some(index as usize);
        let share = [1.0 - weight, weight];
        let index = [0, 1].map(|side| inside(low + side as f64).filter(|_| share[side] > LEAST_SHARE));
        Self { index, share }
    }

    fn each(self) -> impl Iterator<Item = (usize, f32)> {
        [0, 1].into_iter().filter_map(move |side| Some((self.index[side]?, self.share[side])))
    }
}

impl Placement {
    /// A window of `patch` voxels whose first voxel is at `start` of the case, rotated by `degrees` (in the plane of
    /// the slices, about the row axis, about the column axis) and showing `scales` times the extent along each axis.
    pub fn new(start: [isize; 3], patch: [usize; 3], degrees: [f64; 3], scales: [f64; 3]) -> Self {
        let is_identity = degrees == [0.0; 3] && scales == [1.0; 3];
        let turn = (!is_identity).then(|| {
            let [in_plane, about_row, about_column] = degrees.map(f64::to_radians);
            let rotation = product(
                product(plane_rotation(in_plane, [1, 2]), plane_rotation(about_row, [0, 2])),
                plane_rotation(about_column, [0, 1]),
            );
            rotation.map(|row| [0, 1, 2].map(|axis| row[axis] * scales[axis]))
        });
        Self { start, patch, turn }
    }

    /// The window `[M, D, H, W]` from a case `[M, slice, row, column]`, and its labels `[D, H, W]`.
    pub fn cut(&self, images: ArrayView4<f32>, labels: ArrayView3<u8>) -> (Array4<f32>, Array3<u8>) {
        match &self.turn {
            None => self.copy(images, labels),
            Some(turn) => self.turned(turn, images, labels),
        }
    }

    fn copy(&self, images: ArrayView4<f32>, labels: ArrayView3<u8>) -> (Array4<f32>, Array3<u8>) {
        let [depth, height, width] = self.patch;
        let mut window = Array4::zeros((images.dim().0, depth, height, width));
        let mut window_labels = Array3::zeros((depth, height, width));
        let shape = [labels.dim().0, labels.dim().1, labels.dim().2];
        // For each axis: where the window starts in the case, and the part of the window within the case.
        let ranges = [0, 1, 2].map(|axis| {
            let start = self.start[axis];
            let first = (-start).max(0) as usize;
            let end = (shape[axis] as isize - start).clamp(0, self.patch[axis] as isize) as usize;
            (first.min(end), end)
        });
        let source = |axis: usize, index: usize| (self.start[axis] + index as isize) as usize;
        let [slices, rows, (first, end)] = ranges;
        if first == end {
            return (window, window_labels);
        }
        let columns = source(2, first)..source(2, end - 1) + 1;
        for slice in slices.0..slices.1 {
            for row in rows.0..rows.1 {
                let (from_slice, from_row) = (source(0, slice), source(1, row));
                let from = labels.slice(ndarray::s![from_slice, from_row, columns.clone()]);
                window_labels.slice_mut(ndarray::s![slice, row, first..end]).assign(&from);
                let from = images.slice(ndarray::s![.., from_slice, from_row, columns.clone()]);
                window.slice_mut(ndarray::s![.., slice, row, first..end]).assign(&from);
            }
        }
        (window, window_labels)
    }

    fn turned(
        &self,
        turn: &[[f64; 3]; 3],
        images: ArrayView4<f32>,
        labels: ArrayView3<u8>,
    ) -> (Array4<f32>, Array3<u8>) {
        let [depth, height, width] = self.patch;
        let mut window = Array4::zeros((images.dim().0, depth, height, width));
        let mut window_labels = Array3::zeros((depth, height, width));
        let shape = [labels.dim().0, labels.dim().1, labels.dim().2];
        let centre = self.patch.map(|side| (side as f64 - 1.0) / 2.0);
        for ((slice, row, column), label) in window_labels.indexed_iter_mut() {
            let offset = [slice as f64 - centre[0], row as f64 - centre[1], column as f64 - centre[2]];
            let neighbours: [Neighbours; 3] = std::array::from_fn(|axis| {
                let turned: f64 = (0..3).map(|from| turn[axis][from] * offset[from]).sum();
                Neighbours::of(self.start[axis] as f64 + centre[axis] + turned, shape[axis])
            });
            let mut shares = Shares::default();
            for (z, z_share) in neighbours[0].each() {
                for (y, y_share) in neighbours[1].each() {
                    for (x, x_share) in neighbours[2].each() {
                        let share = z_share * y_share * x_share;
                        shares.add(labels[[z, y, x]], share);
                        for (modality, image) in images.outer_iter().enumerate() {
                            window[[modality, slice, row, column]] += share * image[[z, y, x]];
                        }
                    }
                }
            }
            *label = shares.largest();
        }
        (window, window_labels)
    }
}

/// Weights of the labels around a position; everything outside the case is background.
#[derive(Default)]
struct Shares {
    labels: [(u8, f32); 8],
    count: usize,
    sum: f32,
}

impl Shares {
    fn add(&mut self, label: u8, share: f32) {
        self.sum += share;
        match self.labels[..self.count].iter_mut().find(|(known, _)| *known == label) {
            Some((_, sum)) => *sum += share,
            None => {
                self.labels[self.count] = (label, share);
                self.count += 1;
            }
        }
    }

    fn largest(mut self) -> u8 {
        if self.sum < 1.0 && self.count < self.labels.len() {
            self.add(0, 1.0 - self.sum);
        }
        let largest = self.labels[..self.count].iter().max_by(|a, b| a.1.total_cmp(&b.1));
        largest.map_or(0, |(label, _)| *label)
    }
}

/// Rotation in the plane of two axes.
fn plane_rotation(radians: f64, [first, second]: [usize; 2]) -> [[f64; 3]; 3] {
    let (sin, cos) = radians.sin_cos();
    let mut matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    matrix[first][first] = cos;
    matrix[second][second] = cos;
    matrix[first][second] = -sin;
    matrix[second][first] = sin;
    matrix
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    a.map(|row| [0, 1, 2].map(|column| (0..3).map(|index| row[index] * b[index][column]).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> (Array4<f32>, Array3<u8>) {
        let labels = Array3::from_shape_fn((4, 9, 9), |(z, y, x)| {
            u8::from(y > 3) + u8::from(x > 5) + u8::from(z == 2 && y == 1)
        });
        (labels.mapv(f32::from).insert_axis(ndarray::Axis(0)), labels)
    }

    fn cut(
        start: [isize; 3],
        patch: [usize; 3],
        degrees: [f64; 3],
        scales: [f64; 3],
    ) -> (Array3<f32>, Array3<u8>) {
        let (images, labels) = case();
        let (window, labels) =
            Placement::new(start, patch, degrees, scales).cut(images.view(), labels.view());
        (window.index_axis_move(ndarray::Axis(0), 0), labels)
    }

    #[test]
    fn a_window_that_is_not_turned_is_copied_and_zero_outside() {
        let (_, whole) = case();
        let (window, labels) = cut([-1, 2, -3], [6, 5, 16], [0.0; 3], [1.0; 3]);
        for ((z, y, x), &label) in labels.indexed_iter() {
            let inside = |index: usize, start: isize| usize::try_from(index as isize + start).ok();
            let source = (inside(z, -1), inside(y, 2), inside(x, -3));
            let expected = match source {
                (Some(z), Some(y), Some(x)) => whole.get([z, y, x]).copied().unwrap_or(0),
                _ => 0,
            };
            assert_eq!((label, window[[z, y, x]]), (expected, f32::from(expected)));
        }
    }

    #[test]
    fn a_quarter_turn_moves_every_voxel() {
        let (_, whole) = case();
        let (window, labels) = cut([0, 0, 0], [4, 9, 9], [90.0, 0.0, 0.0], [1.0; 3]);
        for ((z, y, x), &label) in labels.indexed_iter() {
            assert_eq!(label, whole[[z, 8 - x, y]]);
            assert!((window[[z, y, x]] - f32::from(label)).abs() < 1e-4);
        }
    }

    #[test]
    fn four_quarter_turns_about_each_axis_are_none() {
        let quarter = |plane| plane_rotation(90f64.to_radians(), plane);
        for plane in [[1, 2], [0, 2], [0, 1]] {
            let whole = (0..4).fold(plane_rotation(0.0, plane), |all, _| product(all, quarter(plane)));
            for (row, values) in whole.iter().enumerate() {
                for (column, value) in values.iter().enumerate() {
                    assert!((value - f64::from(u8::from(row == column))).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn labels_stay_labels_and_slices_apart_within_the_plane() {
        for degrees in [17.0, -133.0] {
            let (_, labels) = cut([0, 0, 0], [4, 9, 9], [degrees, 0.0, 0.0], [1.0, 1.3, 1.3]);
            assert!(labels.iter().all(|&label| label <= 3));
            assert_eq!(labels.index_axis(ndarray::Axis(0), 0), labels.index_axis(ndarray::Axis(0), 1));
        }
    }

    #[test]
    fn a_scale_above_one_shrinks_what_is_seen() {
        let mut labels = Array3::zeros((1, 21, 21));
        labels.slice_mut(ndarray::s![.., 5..16, 5..16]).fill(1);
        let images = labels.mapv(f32::from).insert_axis(ndarray::Axis(0));
        let area = |scale| {
            let placement = Placement::new([0; 3], [1, 21, 21], [0.0; 3], [1.0, scale, scale]);
            let (_, window) = placement.cut(images.view(), labels.view());
            window.iter().filter(|&&label| label == 1).count()
        };
        assert_eq!(area(1.0), 121);
        assert_eq!((area(2.0), area(0.5)), (25, 441));
    }
}
