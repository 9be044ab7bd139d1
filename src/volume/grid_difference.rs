//! Describes in words and millimetres how two grids differ.

use super::affine::{Affine, apply, column_norms, nearest_rotation};

/// Describes the difference between a grid `[x, y, z]` whose axes are already in the target's order, and the target:
/// shape, voxel size, direction, shear, position. Never empty.
pub(super) fn describe(other: ([usize; 3], &Affine), target: ([usize; 3], &Affine)) -> String {
    let mut differences = Vec::new();
    if other.0 != target.0 {
        differences.push(format!("shape {:?} against {:?}", other.0, target.0));
    }
    let (spacing, target_spacing) = (column_norms(other.1), column_norms(target.1));
    if (0..3).any(|axis| (spacing[axis] / target_spacing[axis] - 1.0).abs() > 1e-3) {
        differences.push(format!("voxels of {} against {} mm", sizes(spacing), sizes(target_spacing)));
    }
    let turned = rotation_degrees(other.1, target.1);
    if turned > 0.02 {
        differences.push(format!("turned by {turned:.2} degrees"));
    }
    let sheared = (shear_degrees(other.1) - shear_degrees(target.1)).abs();
    if sheared > 0.02 {
        differences.push(format!("sheared by {sheared:.2} degrees"));
    }
    let shift = distance(centre(other), centre(target));
    let first = distance(other.1.map(|row| row[3]), target.1.map(|row| row[3]));
    if shift >= 5e-4 || differences.is_empty() {
        differences.push(format!("its centre lies {shift:.3} mm away, its first voxel {first:.3} mm"));
    }
    differences.join(", ")
}

/// Voxel sizes, rounded for messages.
pub(super) fn sizes([x, y, z]: [f64; 3]) -> String {
    let short = |size: f64| {
        let text = format!("{size:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    format!("{} x {} x {}", short(x), short(y), short(z))
}

fn centre((shape, affine): ([usize; 3], &Affine)) -> [f64; 3] {
    apply(affine, shape.map(|side| (side as f64 - 1.0) / 2.0))
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt()
}

/// Angle of the rotation between the directions of two grids; 180 if they are mirror images.
fn rotation_degrees(a: &Affine, b: &Affine) -> f64 {
    let (Some(a), Some(b)) = (nearest_rotation(a), nearest_rotation(b)) else { return 0.0 };
    // The Frobenius norm |A - B| is 2 √2 sin(angle / 2). It is exact for small angles, unlike the trace.
    let squares: f64 = (0..3)
        .flat_map(|row| (0..3).map(move |column| (row, column)))
        .map(|(r, c)| (a[r][c] - b[r][c]).powi(2))
        .sum();
    2.0 * (squares / 8.0).sqrt().min(1.0).asin().to_degrees()
}

/// The largest deviation of the axes from right angles.
fn shear_degrees(affine: &Affine) -> f64 {
    let norms = column_norms(affine);
    let angle = |a: usize, b: usize| {
        let cosine: f64 = affine.iter().map(|row| row[a] * row[b]).sum::<f64>() / (norms[a] * norms[b]);
        cosine.abs().min(1.0).asin().to_degrees()
    };
    angle(0, 1).max(angle(0, 2)).max(angle(1, 2))
}
