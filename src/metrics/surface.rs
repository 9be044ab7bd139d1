//! Distances between the surfaces of two objects in a volume, and what is read from them: HD95 and NSD
//! (Nikolov et al. 2018, section "Performance metrics").

use ndarray::{Array3, ArrayView3, Zip, s};

use super::surfel::surfel_areas;
use crate::array::squared_distance;

/// Share of a surface that HD95 looks at.
const PERCENTILE: f64 = 0.95;

/// A piece of surface between eight voxels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surfel {
    /// Distance to the nearest piece of the other surface, mm; infinite where there is none.
    pub distance_mm: f64,
    /// Area, mm².
    pub area_mm2: f64,
}

/// The surface of each of two objects with the distances to the other, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct SurfaceDistances {
    /// Pieces of the true surface.
    pub truth: Vec<Surfel>,
    /// Pieces of the predicted surface.
    pub prediction: Vec<Surfel>,
}

impl SurfaceDistances {
    /// Of two masks `[z, y, x]` of one shape. What lies beyond the edges of the volume is outside.
    pub fn new(truth: ArrayView3<'_, bool>, prediction: ArrayView3<'_, bool>, spacing_mm: [f64; 3]) -> Self {
        let areas_mm2 = surfel_areas(spacing_mm);
        let (truth, prediction) = rayon::join(|| neighbour_codes(truth), || neighbour_codes(prediction));
        let surfels = |of: &Array3<u8>, other: &Array3<u8>| {
            let squared = squared_distance(other.mapv(is_surface).view(), spacing_mm);
            let mut surfels = Vec::new();
            Zip::from(of).and(&squared).for_each(|&code, &squared| {
                if is_surface(code) {
                    let area_mm2 = areas_mm2[usize::from(code)];
                    surfels.push(Surfel { distance_mm: squared.sqrt(), area_mm2 });
                }
            });
            let by_area = |a: &Surfel, b: &Surfel| a.area_mm2.total_cmp(&b.area_mm2);
            surfels.sort_unstable_by(|a, b| a.distance_mm.total_cmp(&b.distance_mm).then(by_area(a, b)));
            surfels
        };
        Self { truth: surfels(&truth, &prediction), prediction: surfels(&prediction, &truth) }
    }

    /// 95th percentile Hausdorff distance, mm: within it lie 95% of each surface's area, measured from the
    /// other. Infinite where there is only one surface or none.
    pub fn hd95_mm(&self) -> f64 {
        percentile_mm(&self.truth).max(percentile_mm(&self.prediction))
    }

    /// Normalised surface Dice: the share of both surfaces that lies within `tolerance_mm` of the other; NaN
    /// where there is none.
    pub fn nsd(&self, tolerance_mm: f64) -> f64 {
        let area = |surfels: &[Surfel], within_mm: f64| {
            surfels
                .iter()
                .filter(|surfel| surfel.distance_mm <= within_mm)
                .map(|surfel| surfel.area_mm2)
                .sum::<f64>()
        };
        let of_both = |within_mm| area(&self.truth, within_mm) + area(&self.prediction, within_mm);
        of_both(tolerance_mm) / of_both(f64::INFINITY)
    }
}

/// The distance within which the given share of a surface's area lies; infinite without a surface.
fn percentile_mm(surfels: &[Surfel]) -> f64 {
    let total: f64 = surfels.iter().map(|surfel| surfel.area_mm2).sum();
    let mut reached = 0.0;
    let found = surfels.iter().find(|surfel| {
        reached += surfel.area_mm2;
        reached / total >= PERCENTILE
    });
    found.or(surfels.last()).map_or(f64::INFINITY, |surfel| surfel.distance_mm)
}

/// Neighbour codes (see [`surfel_areas`]) at the corners of the voxels: `[Z, Y, X]` to `[Z+1, Y+1, X+1]`.
fn neighbour_codes(mask: ArrayView3<'_, bool>) -> Array3<u8> {
    let (depth, height, width) = mask.dim();
    let mut codes = Array3::zeros((depth + 1, height + 1, width + 1));
    for corner in 0..8usize {
        // A voxel is the corner (z, y, x) of the cube round the point that lies 1 - (z, y, x) further on.
        let [z, y, x] = [2, 1, 0].map(|bit| 1 - (corner >> bit & 1));
        let mut shifted = codes.slice_mut(s![z..z + depth, y..y + height, x..x + width]);
        Zip::from(&mut shifted).and(mask).for_each(|code, &inside| *code |= u8::from(inside) << corner);
    }
    codes
}

fn is_surface(code: u8) -> bool {
    code != 0 && code != u8::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_plates_are_as_far_apart_as_they_were_moved() {
        let plate = |at: usize| Array3::from_shape_fn((12, 20, 20), |(z, _, _)| (at..at + 3).contains(&z));
        let distances = SurfaceDistances::new(plate(2).view(), plate(5).view(), [2.5, 1.0, 1.0]);
        assert_eq!(distances.hd95_mm(), 7.5);
        assert_eq!(distances.nsd(7.5), 1.0);
    }

    #[test]
    fn an_object_lies_on_itself() {
        let ball = Array3::from_shape_fn((9, 9, 9), |(z, y, x)| {
            [z, y, x].iter().map(|&index| (index as f64 - 4.0).powi(2)).sum::<f64>() < 10.0
        });
        let distances = SurfaceDistances::new(ball.view(), ball.view(), [1.0; 3]);
        assert_eq!((distances.hd95_mm(), distances.nsd(0.0)), (0.0, 1.0));
    }
}
