//! Slices as a volume on a regular grid. Axes and order are those of dcm2niix: columns, then rows from the last to
//! the first, then slices.

use std::path::Path;

use super::error::DicomError;
use super::seg::ImageFile;
use super::slice::{Slice, dot};
use super::split::by_place;

/// Largest distance of a slice from its place on the grid, as a fraction of the distance of slices.
const OFF_GRID: f64 = 0.05;
/// Sizes of pixels are the same if they differ by at most this fraction.
const SAME_SIZE: f64 = 1e-3;
/// Largest angle between the normal and the line through the slices.
const MOST_TILT_DEGREES: f64 = 0.5;
/// Most voxels of a volume.
const MOST_VOXELS: usize = 1 << 32;

/// A volume whose voxels are still in their files.
#[derive(Debug)]
pub struct Volume {
    pub(super) slices: Vec<Slice>,
    shape: [usize; 3],
    world_from_voxel: [[f64; 4]; 3],
    numbers: Numbers,
}

/// The numbers that [`super::FrameReader`] gives, little-endian.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Numbers {
    /// Stored values of 16 bits, all with this slope and intercept.
    Stored { is_signed: bool, slope: f64, intercept: f64 },
    /// Values with the slope and intercept of each slice applied, as float32.
    Real,
}

impl Volume {
    /// Orders the slices and checks that they form a grid; `path` is for messages.
    ///
    /// # Errors
    /// [`DicomError::Series`].
    pub(super) fn new(slices: &[Slice], path: &Path) -> Result<Self, DicomError> {
        Self::on_grid(slices).map_err(|reason| DicomError::series(path, reason))
    }

    fn on_grid(slices: &[Slice]) -> Result<Self, String> {
        let places = by_place(slices);
        if let Some([a, b, ..]) = places.iter().find(|place| place.len() > 1).map(Vec::as_slice) {
            return Err(format!(
                "{} and {} show the same place, and nothing distinguishes them",
                a.name(),
                b.name()
            ));
        }
        let slices: Vec<Slice> = places.into_iter().flatten().collect();
        let Some(first) = slices.first() else { return Err("no images".into()) };
        check_sizes(&slices)?;
        let (rows, columns) = (first.source.rows, first.source.columns);
        let shape = [columns, rows, slices.len()];
        if shape.iter().fold(1usize, |product, &side| product.saturating_mul(side)) > MOST_VOXELS {
            return Err(format!("{} × {rows} × {columns} voxels are too many", slices.len()));
        }
        let world_from_voxel = world_from_voxel(first, step(&slices)?);
        let numbers = numbers(&slices);
        Ok(Self { slices, shape, world_from_voxel, numbers })
    }

    /// Number of voxels `[x, y, z]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Maps voxel indices to world millimetres (RAS: +x right, +y front, +z top).
    pub fn world_from_voxel(&self) -> [[f64; 4]; 3] {
        self.world_from_voxel
    }

    /// The images in the order of the slices.
    pub fn images(&self) -> Vec<ImageFile> {
        let image = |slice: &Slice| ImageFile { path: slice.source.path.clone(), frame: slice.frame };
        self.slices.iter().map(image).collect()
    }

    /// How the voxels are given.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }
}

/// All slices must have the same size.
fn check_sizes(slices: &[Slice]) -> Result<(), String> {
    let first = &slices[0];
    let size = |slice: &Slice| (slice.source.rows, slice.source.columns);
    for slice in slices {
        if size(slice) != size(first) {
            let [(a, b), (c, d)] = [first, slice].map(size);
            return Err(format!(
                "images of different sizes: {} has {a} × {b} pixels, {} {c} × {d}",
                first.name(),
                slice.name()
            ));
        }
        let [pixel, other] = [first, slice].map(|slice| slice.pixel_spacing);
        if (0..2).any(|axis| (pixel[axis] - other[axis]).abs() > SAME_SIZE * pixel[axis]) {
            return Err(format!(
                "pixels of different sizes: {} mm in {}, {} mm in {}",
                pixel.map(|size| size.to_string()).join(" × "),
                first.name(),
                other.map(|size| size.to_string()).join(" × "),
                slice.name()
            ));
        }
    }
    Ok(())
}

/// The way from a slice to the next, mm.
fn step(slices: &[Slice]) -> Result<[f64; 3], String> {
    let (first, last) = (&slices[0], &slices[slices.len() - 1]);
    let normal = first.normal();
    if slices.len() == 1 {
        return Ok(normal.map(|part| part * first.thickness));
    }
    let way = [0, 1, 2].map(|axis| last.position[axis] - first.position[axis]);
    let along = dot(way, normal);
    let tilt = (along / dot(way, way).sqrt()).clamp(-1.0, 1.0).acos().to_degrees();
    if tilt > MOST_TILT_DEGREES {
        return Err(format!(
            "the slices are shifted against each other by {tilt:.1}° (gantry tilt); resample the series first"
        ));
    }
    check_distances(slices, normal, along / (slices.len() - 1) as f64)?;
    Ok(way.map(|part| part / (slices.len() - 1) as f64))
}

fn check_distances(slices: &[Slice], normal: [f64; 3], mean: f64) -> Result<(), String> {
    let place = |slice: &Slice| dot(slice.position, normal);
    let start = place(&slices[0]);
    let off = |(index, slice): (usize, &Slice)| (place(slice) - start - index as f64 * mean).abs() / mean;
    if slices.iter().enumerate().all(|each| off(each) <= OFF_GRID) {
        return Ok(());
    }
    let mut distances: Vec<f64> = slices.windows(2).map(|pair| place(&pair[1]) - place(&pair[0])).collect();
    let between = |index: usize| format!("between {} and {}", slices[index].name(), slices[index + 1].name());
    let widest = (0..distances.len()).max_by(|&a, &b| distances[a].total_cmp(&distances[b])).unwrap_or(0);
    let wide = distances[widest];
    distances.sort_by(f64::total_cmp);
    let usual = distances[distances.len() / 2];
    match (wide / usual).round() {
        times if times >= 2.0 => {
            Err(format!("slices are missing {} ({wide:.2} mm, elsewhere {usual:.2} mm)", between(widest)))
        }
        _ => Err(format!(
            "the slices are unevenly spaced, {:.3} to {wide:.3} mm; the widest gap is {}",
            distances[0],
            between(widest)
        )),
    }
}

/// The affine of a volume whose first slice is `first`; `step` leads to the next one.
pub(super) fn world_from_voxel(first: &Slice, step: [f64; 3]) -> [[f64; 4]; 3] {
    let [along_row, along_column] = first.orientation;
    let [between_rows, between_columns] = first.pixel_spacing;
    let to_last_row = between_rows * (first.source.rows - 1) as f64;
    [0, 1, 2].map(|axis| {
        let to_ras = if axis < 2 { -1.0 } else { 1.0 };
        [
            to_ras * along_row[axis] * between_columns,
            -to_ras * along_column[axis] * between_rows,
            to_ras * step[axis],
            to_ras * (first.position[axis] + along_column[axis] * to_last_row),
        ]
        .map(|value| value + 0.0) // no negative zeros
    })
}

fn numbers(slices: &[Slice]) -> Numbers {
    let Slice { rescale, ref source, .. } = slices[0];
    let is_signed = source.bits.is_signed;
    let is_same = |slice: &Slice| slice.rescale == rescale && slice.source.bits.is_signed == is_signed;
    match slices.iter().all(is_same) && !slices.iter().any(|slice| slice.source.bits.is_float()) {
        true => Numbers::Stored { is_signed, slope: rescale.0, intercept: rescale.1 },
        false => Numbers::Real,
    }
}
