//! Brings the files of one case to one grid: labels, predictions and further modalities are brought to the grid of
//! the image (in an evaluation: of the truth) by the affines of both.
//!
//! [`align`] distinguishes three cases: the same grid within a tolerance; the same voxels in another order, which
//! flips and transpositions undo exactly; another grid, which is refused unless [`Regrid::Resample`] is requested.

use std::path::Path;

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::affine::{Affine, apply, column_norms, inverse};
use super::error::VolumeError;
use super::grid_difference::describe;
use super::header::Header;
use super::warnings::warn_once;

/// Largest distance between two equal grids anywhere in the volume, as a fraction of the shortest side of a voxel.
const TOLERANCE_VOXELS: f64 = 0.005;
/// The same in millimetres, for small voxels: offsets are stored as float32 and written by programs that round.
const TOLERANCE_MM: f64 = 1e-3;

/// The grid to which other files are brought.
#[derive(Debug, Clone, Copy)]
pub struct TargetGrid<'a> {
    /// Its file, for messages.
    pub path: &'a Path,
    /// Voxels along the stored axes `[x, y, z]`.
    pub shape: [usize; 3],
    /// Maps stored voxel indices to world millimetres (RAS).
    pub world_from_voxel: &'a Affine,
}

impl<'a> From<&'a Header> for TargetGrid<'a> {
    fn from(header: &'a Header) -> Self {
        Self { path: header.path(), shape: header.shape(), world_from_voxel: header.world_from_voxel_ref() }
    }
}

/// What to do with a file on another grid (not only in another order).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regrid {
    /// Refuse it with an error that names both files and the difference in mm.
    #[default]
    Refuse,
    /// Resample it by the affines, with a warning: labels by nearest neighbour, images linearly.
    Resample,
}

/// How the voxels of a file are brought to the target's grid.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Alignment {
    /// The target's axis `i` is the file's axis `axes[i]`, reversed if `flips[i]`.
    Reorder { axes: [usize; 3], flips: [bool; 3] },
    /// Maps a voxel position of the target to one of the file.
    Resample { source_from_target: Affine },
}

/// Determines how `source` is brought to the grid of `target`.
///
/// # Errors
/// [`VolumeError::OtherGrid`] if the grids differ and `regrid` is [`Regrid::Refuse`], or if they do not overlap at
/// all.
pub(super) fn align(source: &Header, target: &TargetGrid, regrid: Regrid) -> Result<Alignment, VolumeError> {
    let world = source.world_from_voxel();
    let (axes, flips) = closest_order(&world, target.world_from_voxel);
    let reordered = reordered_affine(&world, source.shape(), axes, flips);
    let shape = axes.map(|axis| source.shape()[axis]);
    let tolerance = tolerance_mm(target);
    if shape == target.shape && largest_distance(&reordered, target.world_from_voxel, shape) <= tolerance {
        return Ok(Alignment::Reorder { axes, flips });
    }
    let difference = describe((shape, &reordered), (target.shape, target.world_from_voxel));
    let other_grid = |difference| VolumeError::OtherGrid {
        path: source.path().into(),
        target: target.path.into(),
        difference,
    };
    if regrid == Regrid::Refuse {
        return Err(other_grid(difference));
    }
    let alignment = inverse(&world)
        .map(|source_from_world| Alignment::Resample {
            source_from_target: compose(&source_from_world, target.world_from_voxel),
        })
        .filter(|alignment| alignment.overlaps(source.shape(), target.shape));
    let alignment = alignment.ok_or_else(|| other_grid(format!("{difference}; they do not overlap")))?;
    warn_once(source.path(), format!("resampled onto the grid of {}: {difference}", target.path.display()));
    Ok(alignment)
}

/// Checks from headers alone that a file can be brought to the grid of `target`.
///
/// # Errors
/// [`VolumeError::OtherGrid`] depending on `regrid`.
pub fn check_grid(source: &Header, target: &TargetGrid, regrid: Regrid) -> Result<(), VolumeError> {
    align(source, target, regrid).map(drop)
}

impl Alignment {
    /// Labels `[x, y, z]` of the file on the target's grid; 0 where the file has no voxels.
    pub(super) fn nearest<T: Copy + Default + Send + Sync>(
        &self,
        stored: Array3<T>,
        target_shape: [usize; 3],
    ) -> Array3<T> {
        match self {
            Self::Reorder { axes, flips } => reorder(stored, *axes, *flips),
            Self::Resample { source_from_target } => {
                sample(source_from_target, target_shape, |point| nearest_voxel(stored.view(), point))
            }
        }
    }

    /// As [`Self::nearest`], for an image: linear, and its smallest value where the file has no voxels.
    pub(super) fn linear(&self, stored: Array3<f32>, target_shape: [usize; 3]) -> Array3<f32> {
        match self {
            Self::Reorder { axes, flips } => reorder(stored, *axes, *flips),
            Self::Resample { source_from_target } => {
                let outside = stored.iter().copied().fold(f32::INFINITY, f32::min);
                sample(source_from_target, target_shape, |point| {
                    linear_value(stored.view(), point).unwrap_or(outside)
                })
            }
        }
    }

    /// Whether any voxel of the target lies within the file.
    fn overlaps(&self, source_shape: [usize; 3], target_shape: [usize; 3]) -> bool {
        let Self::Resample { source_from_target } = self else { return true };
        let [x_side, y_side, z_side] = target_shape;
        (0..z_side).into_par_iter().any(|z| {
            (0..y_side).any(|y| {
                (0..x_side).any(|x| {
                    let point = apply(source_from_target, [x as f64, y as f64, z as f64]);
                    nearest_index(point, source_shape).is_some()
                })
            })
        })
    }
}

/// Largest distance between two equal grids, mm.
pub(super) fn tolerance_mm(target: &TargetGrid) -> f64 {
    let shortest = column_norms(target.world_from_voxel).into_iter().fold(f64::INFINITY, f64::min);
    (TOLERANCE_VOXELS * shortest).max(TOLERANCE_MM)
}

/// The order and directions of the source's axes that match the target's best.
fn closest_order(source: &Affine, target: &Affine) -> ([usize; 3], [bool; 3]) {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let (source_norms, target_norms) = (column_norms(source), column_norms(target));
    let cosine = |from: usize, to: usize| {
        let product: f64 = (0..3).map(|row| source[row][from] * target[row][to]).sum();
        product / (source_norms[from] * target_norms[to])
    };
    let mut best = (ORDERS[0], f64::NEG_INFINITY);
    for axes in ORDERS {
        let closeness: f64 = (0..3).map(|to| cosine(axes[to], to).abs()).sum();
        if closeness > best.1 + 1e-9 {
            best = (axes, closeness);
        }
    }
    let axes = best.0;
    (axes, [0, 1, 2].map(|to| cosine(axes[to], to) < 0.0))
}

/// Maps voxel indices to the world after reordering.
fn reordered_affine(world: &Affine, shape: [usize; 3], axes: [usize; 3], flips: [bool; 3]) -> Affine {
    world.map(|row| {
        let mut reordered = [0.0, 0.0, 0.0, row[3]];
        for to in 0..3 {
            let step = row[axes[to]];
            reordered[to] = if flips[to] { -step } else { step };
            if flips[to] {
                reordered[3] += step * (shape[axes[to]] as f64 - 1.0);
            }
        }
        reordered
    })
}

/// Distance between the positions that two affines give to the same voxel, at the corner of the volume where it is
/// largest. Along an axis with a single voxel its centre is used, because programs do not agree on the thickness of
/// a 2D image.
fn largest_distance(a: &Affine, b: &Affine, shape: [usize; 3]) -> f64 {
    (0..8usize)
        .map(|corner| {
            let point = [0, 1, 2].map(|axis| match (shape[axis], corner >> axis & 1) {
                (1, _) => 0.0,
                (_, 0) => -0.5,
                (side, _) => side as f64 - 0.5,
            });
            let (a, b) = (apply(a, point), apply(b, point));
            (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt()
        })
        .fold(0.0, f64::max)
}

fn compose(outer: &Affine, inner: &Affine) -> Affine {
    let origin = apply(outer, inner.map(|row| row[3]));
    let mut composed = origin.map(|value| [0.0, 0.0, 0.0, value]);
    for column in 0..3 {
        for (row, out) in composed.iter_mut().enumerate() {
            out[column] = (0..3).map(|k| outer[row][k] * inner[k][column]).sum();
        }
    }
    composed
}

fn reorder<T: Copy + Default>(stored: Array3<T>, axes: [usize; 3], flips: [bool; 3]) -> Array3<T> {
    if (axes, flips) == ([0, 1, 2], [false; 3]) {
        return stored;
    }
    let mut view = stored.view().permuted_axes(axes);
    for axis in (0..3).filter(|&axis| flips[axis]) {
        view.invert_axis(Axis(axis));
    }
    // x fastest in memory, as in files.
    let (x, y, z) = view.dim();
    let mut reordered = Array3::from_elem((z, y, x), T::default()).reversed_axes();
    reordered.assign(&view);
    reordered
}

/// `value` at the source positions of all voxels of the target; `[x, y, z]`, x fastest in memory.
fn sample<T: Copy + Default + Send>(
    source_from_target: &Affine,
    shape: [usize; 3],
    value: impl Fn([f64; 3]) -> T + Sync,
) -> Array3<T> {
    let [x_side, y_side, z_side] = shape;
    let mut reversed = Array3::from_elem((z_side, y_side, x_side), T::default());
    let rows = reversed.as_slice_mut().unwrap_or_default(); // arrays of ours are contiguous
    rows.par_chunks_mut(x_side).enumerate().for_each(|(row, out)| {
        let (z, y) = (row / y_side, row % y_side);
        for (x, out) in out.iter_mut().enumerate() {
            *out = value(apply(source_from_target, [x as f64, y as f64, z as f64]));
        }
    });
    reversed.reversed_axes()
}

/// The voxel whose cell contains `point`.
fn nearest_index(point: [f64; 3], shape: [usize; 3]) -> Option<[usize; 3]> {
    const ROUNDING: f64 = 1e-6; // a point on the border of two cells lies in the same one on every machine
    let mut index = [0; 3];
    for axis in 0..3 {
        let cell = (point[axis] + 0.5 + ROUNDING).floor();
        if !(cell >= 0.0 && cell < shape[axis] as f64) {
            return None;
        }
        index[axis] = cell as usize;
    }
    Some(index)
}

fn nearest_voxel<T: Copy + Default>(stored: ArrayView3<T>, point: [f64; 3]) -> T {
    let (x, y, z) = stored.dim();
    nearest_index(point, [x, y, z]).map_or(T::default(), |index| stored[index])
}

/// Linear interpolation between the eight voxels around `point`. The outermost values extend to the volume's border;
/// `None` outside.
fn linear_value(stored: ArrayView3<f32>, point: [f64; 3]) -> Option<f32> {
    let (x, y, z) = stored.dim();
    let shape = [x, y, z];
    nearest_index(point, shape)?;
    let at = [0, 1, 2].map(|axis| point[axis].clamp(0.0, shape[axis] as f64 - 1.0));
    let low = at.map(|position| position.floor() as usize);
    let mut sum = 0.0;
    for corner in 0..8usize {
        let (mut weight, mut index) = (1.0, low);
        for axis in 0..3 {
            let part = at[axis] - low[axis] as f64;
            let is_high = corner >> axis & 1 == 1;
            weight *= if is_high { part } else { 1.0 - part };
            index[axis] += usize::from(is_high);
        }
        if weight > 0.0 {
            sum += weight * f64::from(stored[index]);
        }
    }
    Some(sum as f32)
}
