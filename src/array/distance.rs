//! Exact Euclidean distance transform of a volume with anisotropic voxels: one pass along each axis, each
//! the lower envelope of parabolas (Felzenszwalb and Huttenlocher 2012, "Distance transforms of sampled
//! functions"), in linear time.

use ndarray::{Array3, ArrayView3, ArrayViewMut1, Axis};
use rayon::prelude::*;

/// Squared distance, mm², of every voxel to the nearest voxel of `sites`, between voxel centres; infinite
/// everywhere where there is no site. `[z, y, x]` to the same shape, `spacing_mm` likewise.
pub fn squared_distance(sites: ArrayView3<'_, bool>, spacing_mm: [f64; 3]) -> Array3<f64> {
    let mut squared = sites.mapv(|site| if site { 0.0 } else { f64::INFINITY });
    for (axis, spacing_mm) in spacing_mm.into_iter().enumerate() {
        // Planes with whole lines in them, and the lines' axis there.
        let (across, along) = if axis == 0 { (1, 0) } else { (0, axis - 1) };
        let planes: Vec<_> = squared.axis_iter_mut(Axis(across)).collect();
        planes.into_par_iter().for_each_init(
            || Envelope::new(spacing_mm),
            |envelope, mut plane| {
                plane.lanes_mut(Axis(along)).into_iter().for_each(|line| envelope.transform(line));
            },
        );
    }
    squared
}

/// Parabolas `height + (spacing · (index - apex))²`, of which one is lowest between each two bounds. The
/// buffers are kept from line to line.
struct Envelope {
    spacing_mm: f64,
    heights: Vec<f64>,
    lowest: Vec<Parabola>,
}

struct Parabola {
    apex: usize,
    /// Index from which on it is the lowest.
    from: f64,
}

impl Envelope {
    fn new(spacing_mm: f64) -> Self {
        Self { spacing_mm, heights: Vec::new(), lowest: Vec::new() }
    }

    /// Replaces the heights along a line by the lower envelope of the parabolas that stand on them.
    fn transform(&mut self, mut line: ArrayViewMut1<'_, f64>) {
        self.heights.clear();
        self.heights.extend(line.iter());
        self.lowest.clear();
        for apex in (0..self.heights.len()).filter(|&index| self.heights[index].is_finite()) {
            let mut from = f64::NEG_INFINITY;
            while let Some(last) = self.lowest.last() {
                from = self.crossing(last.apex, apex);
                if from > last.from {
                    break;
                }
                self.lowest.pop();
                from = f64::NEG_INFINITY;
            }
            self.lowest.push(Parabola { apex, from });
        }
        let mut parabolas = self.lowest.iter().peekable();
        let Some(mut parabola) = parabolas.next() else { return };
        for (index, value) in line.iter_mut().enumerate() {
            while let Some(next) = parabolas.next_if(|next| next.from <= index as f64) {
                parabola = next;
            }
            let distance_mm = self.spacing_mm * index.abs_diff(parabola.apex) as f64;
            *value = self.heights[parabola.apex] + distance_mm * distance_mm;
        }
    }

    /// Index at which the parabola of `right` comes below that of `left`.
    fn crossing(&self, left: usize, right: usize) -> f64 {
        let rise = (self.heights[right] - self.heights[left]) / (self.spacing_mm * self.spacing_mm);
        let (left, right) = (left as f64, right as f64);
        (rise / (right - left) + left + right) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_equal_those_of_an_exhaustive_search() {
        let spacing_mm = [3.0, 0.7, 1.3];
        let sites = Array3::from_shape_fn((5, 8, 7), |(z, y, x)| (z * 31 + y * 17 + x * 7) % 23 == 0);
        for ((z, y, x), &found) in squared_distance(sites.view(), spacing_mm).indexed_iter() {
            let nearest = sites.indexed_iter().filter(|(_, site)| **site).map(|((sz, sy, sx), _)| {
                let steps = [z.abs_diff(sz), y.abs_diff(sy), x.abs_diff(sx)];
                steps.iter().zip(spacing_mm).map(|(&step, mm)| (step as f64 * mm).powi(2)).sum::<f64>()
            });
            let expected = nearest.fold(f64::INFINITY, f64::min);
            assert!((found - expected).abs() <= 1e-12 * expected.max(1.0), "{found} {expected}");
        }
    }

    #[test]
    fn without_sites_all_is_infinitely_far() {
        let squared = squared_distance(Array3::from_elem((2, 3, 4), false).view(), [1.0; 3]);
        assert!(squared.iter().all(|&value| value == f64::INFINITY));
    }
}
