//! Images that arrive one by one, without a file: their place in space, and the volumes that they form.

use std::path::Path;
use std::sync::Arc;

use super::error::DicomError;
use super::geometry::{self, Volume};
use super::slice::{Kind, Slice, dot, normal};
use super::source::{Bits, Source};
use super::split::{has_same_direction, split};
use super::syntax::Syntax;

/// Size of an image, its place in space, and what distinguishes it from others at the same place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    pub rows: usize,
    pub columns: usize,
    /// Centre of the first pixel, mm (LPS: +x left, +y back, +z top).
    pub position: [f64; 3],
    /// Directions of a row (along which the column index grows) and of a column, of length 1.
    pub orientation: [[f64; 3]; 2],
    /// Distances of rows and of columns, mm.
    pub pixel_spacing: [f64; 2],
    /// Distance to the next slice, mm, if there is only this one.
    pub thickness: f64,
    pub kind: Kind,
}

/// A volume of the images of a series.
#[derive(Debug)]
pub struct Arranged {
    /// Parts of a name, as those of [`super::Found`]; empty if the series is one volume.
    pub labels: Vec<String>,
    /// Index in the series of each image: in the order of the volume's slices, if they form a volume.
    pub images: Vec<usize>,
    /// The volume, without voxels, or why the images do not form one.
    pub volume: Result<Volume, DicomError>,
}

impl Placement {
    /// Whether the other image has the same size and directions, so that both may belong to one volume.
    pub fn is_parallel(&self, other: &Self) -> bool {
        (self.rows, self.columns) == (other.rows, other.columns)
            && has_same_direction(&self.orientation, &other.orientation)
    }

    /// Place along the normal of the image, mm.
    pub fn place(&self) -> f64 {
        dot(self.position, normal(&self.orientation))
    }

    pub(super) fn slice(&self, index: usize) -> Slice {
        let source = Source {
            path: format!("image {}", index + 1).into(),
            syntax: Syntax::Native,
            rows: self.rows,
            columns: self.columns,
            frames: 1,
            bits: Bits { allocated: 16, stored: 16, is_signed: true },
            series: String::new(),
            series_number: None,
            pixels_at: None,
        };
        Slice {
            source: Arc::new(source),
            frame: index,
            position: self.position,
            orientation: self.orientation,
            pixel_spacing: self.pixel_spacing,
            thickness: self.thickness,
            rescale: (1.0, 0.0),
            kind: self.kind.clone(),
        }
    }
}

impl From<&Slice> for Placement {
    fn from(slice: &Slice) -> Self {
        Self {
            rows: slice.source.rows,
            columns: slice.source.columns,
            position: slice.position,
            orientation: slice.orientation,
            pixel_spacing: slice.pixel_spacing,
            thickness: slice.thickness,
            kind: slice.kind.clone(),
        }
    }
}

/// Maps voxel indices of a stack of parallel images, in the order of their places, to world millimetres (RAS), as
/// [`Volume::world_from_voxel`]. Images are taken as evenly spaced between the first and the last.
///
/// # Panics
/// If there is no image.
pub fn world_from_voxel(images: &[&Placement]) -> [[f64; 4]; 3] {
    let (first, last) = (images[0], images[images.len() - 1]);
    let step = match images.len() {
        1 => normal(&first.orientation).map(|part| part * first.thickness),
        count => [0, 1, 2].map(|axis| (last.position[axis] - first.position[axis]) / (count - 1) as f64),
    };
    geometry::world_from_voxel(&first.slice(0), step)
}

/// Divides the images of a series into volumes, as [`super::study`] does with those of files. Images are named by their
/// number in messages; `series` names the series in them.
pub fn arrange<'a>(series: &Path, images: impl IntoIterator<Item = (usize, &'a Placement)>) -> Vec<Arranged> {
    let slices = images.into_iter().map(|(index, placement)| placement.slice(index)).collect();
    let volume = |part: super::split::Part| {
        let volume = Volume::new(&part.slices, series);
        let ordered = volume.as_ref().map_or(&part.slices, |volume| &volume.slices);
        Arranged { labels: part.labels, images: ordered.iter().map(|slice| slice.frame).collect(), volume }
    };
    split(slices).into_iter().map(volume).collect()
}
