//! The voxel-to-world affine of a NIfTI header, from its three sources (sform, qform and pixdim) and its units.

use std::path::Path;

use super::affine::{Affine, apply, column_norms, inverse};
use super::grid_difference::sizes;
use super::raw_header::{Field, RawHeader};
use super::warnings::warn_once;

/// Voxel sizes agree if they differ by at most this fraction.
const SAME_SIZE: f64 = 0.01;

/// Maps voxel indices to world millimetres.
///
/// The sform is used, else the qform, else voxel sizes with the origin in the middle of the volume and x to the left
/// (as in nibabel). A singular form is ignored. If sform and qform have different voxel sizes, the qform is used:
/// its sizes are those of `pixdim`, so two of three agree. There are two exceptions, for headers that have lost
/// information: sizes of exactly 1 × 1 × 1 in `pixdim` do not overrule an sform, and the sform is used if there is
/// no qform. Each contradiction causes a warning with both sizes.
pub(super) fn world_from_voxel(header: &RawHeader, shape: [usize; 3], path: &Path) -> Affine {
    let scale = millimetres_per_unit(header, path);
    let affine = stored_affine(header, shape, path, scale);
    affine.map(|row| row.map(|value| value * scale))
}

/// The header's unit of length, mm.
fn millimetres_per_unit(header: &RawHeader, path: &Path) -> f64 {
    match header.integer(Field::XyztUnits) & 0b111 {
        0 | 2 => 1.0,
        1 => 1000.0,
        3 => 1e-3,
        other => {
            warn_once(
                path,
                format!("xyzt_units has the unknown unit of length {other}; millimetres are assumed"),
            );
            1.0
        }
    }
}

fn stored_affine(header: &RawHeader, shape: [usize; 3], path: &Path, scale: f64) -> Affine {
    let pixdim = [1, 2, 3].map(|axis| header.real(Field::Pixdim(axis)).abs());
    let is_size = |size: f64| size.is_finite() && size > 0.0;
    let pixdim_or_1 = pixdim.map(|size| if is_size(size) { size } else { 1.0 });
    let is_usable =
        |affine: &Affine| affine.iter().flatten().all(|value| value.is_finite()) && inverse(affine).is_some();
    let sform = (header.integer(Field::SformCode) > 0).then(|| sform(header)).filter(is_usable);
    let qform = (header.integer(Field::QformCode) > 0).then(|| qform(header, pixdim_or_1)).filter(is_usable);
    let (Some(sform), qform) = (sform, qform) else {
        return qform.unwrap_or_else(|| centred(shape, pixdim_or_1));
    };
    let sizes_of_sform = column_norms(&sform);
    let has_pixdim = pixdim.into_iter().zip(shape).all(|(size, side)| is_size(size) || side == 1);
    if has_pixdim && !are_same_sizes(sizes_of_sform, pixdim_or_1, shape) {
        let is_lost = pixdim_or_1.iter().all(|&size| size == 1.0);
        let chosen = qform.filter(|_| !is_lost);
        let text = |lengths: [f64; 3]| sizes(lengths.map(|length| length * scale));
        let (others, winner) = match (&qform, &chosen) {
            (None, _) => ("pixdim", "sform"),
            (Some(_), None) => ("qform and pixdim", "sform"),
            (Some(_), Some(_)) => ("qform and pixdim", "qform"),
        };
        let (by_sform, by_pixdim) = (text(sizes_of_sform), text(pixdim_or_1));
        warn_once(
            path,
            format!("voxels of {by_sform} mm by the sform, {by_pixdim} mm by {others}: the {winner} counts"),
        );
        return chosen.unwrap_or(sform);
    }
    if let Some(qform) = qform
        && header.integer(Field::SformCode) == header.integer(Field::QformCode)
    {
        warn_of_places(&sform, &qform, shape, path, scale);
    }
    sform
}

/// Warns if both forms name the same space but differ by more than a voxel.
fn warn_of_places(sform: &Affine, qform: &Affine, shape: [usize; 3], path: &Path, scale: f64) {
    let largest = (0..8usize)
        .map(|corner| {
            let point = [0, 1, 2].map(|axis| (shape[axis] as f64 - 1.0) * (corner >> axis & 1) as f64);
            let (a, b) = (apply(sform, point), apply(qform, point));
            (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt()
        })
        .fold(0.0, f64::max);
    let voxel = column_norms(sform);
    if largest > voxel.into_iter().fold(0.0, f64::max) {
        let voxels = sizes(voxel.map(|length| length * scale));
        let apart = largest * scale;
        warn_once(
            path,
            format!(
                "sform and qform (both with voxels of {voxels} mm) lie up to {apart:.1} mm apart: the sform counts"
            ),
        );
    }
}

fn are_same_sizes(a: [f64; 3], b: [f64; 3], shape: [usize; 3]) -> bool {
    // Programs do not agree on the thickness of a single slice.
    (0..3).all(|axis| shape[axis] == 1 || (a[axis] - b[axis]).abs() <= SAME_SIZE * a[axis].min(b[axis]))
}

fn sform(header: &RawHeader) -> Affine {
    [0, 1, 2].map(|row| [0, 1, 2, 3].map(|column| header.real(Field::Srow(row, column))))
}

fn centred(shape: [usize; 3], sizes: [f64; 3]) -> Affine {
    let signs = [-1.0, 1.0, 1.0];
    let mut affine = [[0.0; 4]; 3];
    for (axis, row) in affine.iter_mut().enumerate() {
        row[axis] = signs[axis] * sizes[axis];
        row[3] = -row[axis] * (shape[axis] as f64 - 1.0) / 2.0;
    }
    affine
}

/// Method 2 of NIfTI-1: rotation by a unit quaternion, voxel sizes, offset.
fn qform(header: &RawHeader, sizes: [f64; 3]) -> Affine {
    let [b, c, d] = [0, 1, 2].map(|index| header.real(Field::Quatern(index)));
    let a = (1.0 - b * b - c * c - d * d).max(0.0).sqrt();
    let length = (a * a + b * b + c * c + d * d).sqrt();
    let [a, b, c, d] = [a, b, c, d].map(|part| part / length);
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    let handedness = if header.real(Field::Pixdim(0)) < 0.0 { -1.0 } else { 1.0 };
    let scale = [sizes[0], sizes[1], sizes[2] * handedness];
    [0, 1, 2].map(|row| {
        let [x, y, z] = [0, 1, 2].map(|column| rotation[row][column] * scale[column]);
        [x, y, z, header.real(Field::Qoffset(row))]
    })
}
