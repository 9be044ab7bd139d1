//! Labels from boxes in world millimetres, used as prompts if there are no labels.

use ndarray::Array3;

use super::affine::apply;
use super::grid::{BoxMm, Grid};

/// Labels `[x, y, z]` as stored. Voxels whose centre lies inside a box get its class; at least the voxel nearest to
/// the box's centre does. Later boxes overwrite earlier ones. A box is a class, a name and two corners.
///
/// # Errors
/// The name of a box that does not touch the volume.
pub(super) fn labels_from_boxes(grid: &Grid, boxes: &[(u8, String, BoxMm)]) -> Result<Array3<u8>, String> {
    let mut labels = grid.empty_stored::<u8>();
    for (class, name, corners) in boxes {
        let class = *class;
        let [xs, ys, zs] = grid.voxel_range(corners).ok_or_else(|| name.clone())?;
        let centre = [0, 1, 2].map(|axis| (corners[0][axis] + corners[1][axis]) / 2.0);
        let mut nearest = ([xs[0], ys[0], zs[0]], f64::INFINITY);
        let mut is_empty = true;
        for z in zs[0]..zs[1] {
            for y in ys[0]..ys[1] {
                for x in xs[0]..xs[1] {
                    let world = apply(&grid.world_from_voxel, [x as f64, y as f64, z as f64]);
                    if contains(corners, world) {
                        labels[[x, y, z]] = class;
                        is_empty = false;
                    }
                    let distance: f64 = (0..3).map(|axis| (world[axis] - centre[axis]).powi(2)).sum();
                    if distance < nearest.1 {
                        nearest = ([x, y, z], distance);
                    }
                }
            }
        }
        if is_empty {
            labels[nearest.0] = class;
        }
    }
    Ok(labels)
}

fn contains(corners: &BoxMm, point: [f64; 3]) -> bool {
    (0..3).all(|axis| {
        let (a, b) = (corners[0][axis], corners[1][axis]);
        (a.min(b)..=a.max(b)).contains(&point[axis])
    })
}
