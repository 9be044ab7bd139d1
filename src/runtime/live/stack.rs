//! The images of a series that belong together so far, in the order of their places.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array4, s};

use super::image::Image;
use crate::bundle::Normalisation;
use crate::dicom::{Kind, Placement, world_from_voxel};
use crate::volume::{Affine, BoxMm, Grid, Rescaling};

/// Images at places less than this apart along the normal show the same place, mm.
const SAME_PLACE_MM: f64 = 1e-3;
/// Statistics are taken over at most so many images, evenly spread.
const MOST_FOR_STATISTICS: usize = 32;

/// Parallel images of one kind, one at each place.
#[derive(Debug)]
pub(super) struct Stack {
    images: Vec<Arc<Image>>,
}

impl Stack {
    /// The stack of the images that belong to `anchor`, with the image nearest to it in time at each place.
    pub fn around(anchor: &Arc<Image>, images: &[Arc<Image>]) -> Self {
        let of_anchor = &anchor.frame.placement;
        let belongs = |image: &&Arc<Image>| {
            let placement = &image.frame.placement;
            placement.is_parallel(of_anchor) && is_same_kind(&placement.kind, &of_anchor.kind)
        };
        let mut sorted: Vec<&Arc<Image>> = images.iter().filter(belongs).collect();
        sorted.sort_by(|a, b| a.frame.placement.place().total_cmp(&b.frame.placement.place()));
        let mut chosen: Vec<Arc<Image>> = Vec::new();
        for image in sorted {
            match chosen.last_mut() {
                Some(last) if place(image) - place(last) < SAME_PLACE_MM => {
                    if nearer(image, last, anchor) {
                        *last = image.clone();
                    }
                }
                _ => chosen.push(image.clone()),
            }
        }
        Self { images: chosen }
    }

    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn images(&self) -> &[Arc<Image>] {
        &self.images
    }

    /// Distance of neighbouring images, mm.
    pub fn spacing_mm(&self) -> f64 {
        match self.images.len() {
            1 => self.images[0].frame.placement.thickness,
            count => (place(&self.images[count - 1]) - place(&self.images[0])) / (count - 1) as f64,
        }
    }

    /// Positions in the stack of the images with these indices.
    pub fn positions(&self, indices: &BTreeSet<i64>) -> Vec<usize> {
        let is_new = |position: &usize| indices.contains(&self.images[*position].frame.index);
        (0..self.len()).filter(is_new).collect()
    }

    /// `count` neighbouring images with all of `positions` among them, if possible at the end of the range; more if they lie
    /// further apart.
    pub fn range_with(&self, positions: &[usize], count: usize) -> Range<usize> {
        let first = positions.first().copied().unwrap_or(0);
        let end = positions.last().map_or(self.len(), |&last| last + 1);
        let start = first.min(end.saturating_sub(count));
        start..end.max(count.min(self.len() - start) + start)
    }

    /// Shape `[x, y, z]` and affine of the volume of a range.
    pub fn geometry(&self, range: Range<usize>) -> ([usize; 3], Affine) {
        let placements: Vec<&Placement> =
            self.images[range].iter().map(|image| &image.frame.placement).collect();
        let shape = [placements[0].columns, placements[0].rows, placements.len()];
        (shape, world_from_voxel(&placements))
    }

    /// The rescaling of intensities, from the images so far; if the bundle takes the statistics of the region of interest, from
    /// its part of them.
    pub fn rescaling(&self, normalisation: &Normalisation, region: Option<&BoxMm>, grid: &Grid) -> Rescaling {
        let of_region = region
            .filter(|_| *normalisation == Normalisation::ZScoreRegion)
            .and_then(|region| grid.voxel_range(region));
        let [columns, rows, slices] =
            of_region.unwrap_or_else(|| grid.original_shape.map(|length| [0, length]));
        let step = (slices[1] - slices[0]).div_ceil(MOST_FOR_STATISTICS).max(1);
        let mut voxels = Vec::new();
        for image in self.images[slices[0]..slices[1]].iter().step_by(step) {
            let kept = image.rows_of_volume().skip(rows[0]).take(rows[1] - rows[0]);
            kept.for_each(|row| voxels.extend_from_slice(&row[columns[0]..columns[1]]));
        }
        Rescaling::of(&voxels, normalisation)
    }

    /// The images of a range as the network sees them, `[1, slice, row, column]`, cropped and rescaled.
    pub fn network_images(&self, range: Range<usize>, grid: &Grid, rescaling: &Rescaling) -> Array4<f32> {
        let mut stored = grid.empty_stored::<f32>();
        for (slice, image) in self.images[range].iter().enumerate() {
            for (y, row) in image.rows_of_volume().enumerate() {
                let mut target = stored.slice_mut(s![.., y, slice]);
                target.iter_mut().zip(row).for_each(|(to, &value)| *to = value);
            }
        }
        let [slices, rows, columns] = grid.shape();
        let mut images = Array4::zeros((1, slices, rows, columns));
        images.slice_mut(s![0, .., .., ..]).assign(&grid.to_network(stored.view()));
        if let Some(voxels) = images.as_slice_mut() {
            rescaling.apply(voxels);
        }
        images
    }
}

fn place(image: &Image) -> f64 {
    image.frame.placement.place()
}

/// Whether two images may belong to one volume. Times and numbers that scanners count up within a volume do not count.
fn is_same_kind(a: &Kind, b: &Kind) -> bool {
    let values = |kind: &Kind| [kind.echo_time, kind.temporal_position, kind.b_value];
    a.image_type == b.image_type && values(a) == values(b)
}

/// Which of two images at the same place belongs to the anchor: `image` if it is the anchor, or nearer to it in trigger time
/// than `other`; without times, if it is newer.
fn nearer(image: &Image, other: &Image, anchor: &Image) -> bool {
    if [image, other].iter().any(|image| image.frame.index == anchor.frame.index) {
        return image.frame.index == anchor.frame.index;
    }
    let time = |image: &Image| image.frame.placement.kind.trigger_time;
    let distance = |image: &Image| time(image).zip(time(anchor)).map(|(time, anchor)| (time - anchor).abs());
    match distance(image).zip(distance(other)).map(|(image, other)| image.total_cmp(&other)) {
        Some(Ordering::Less) => true,
        Some(Ordering::Greater) => false,
        Some(Ordering::Equal) | None => image.frame.index > other.frame.index,
    }
}
