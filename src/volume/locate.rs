//! Two passes over a case: a cheap one that finds the place of the classes, and the planned one around it.

use ndarray::ArrayView3;

use super::plan::CasePlan;

/// A box of voxels, `[start, end)` along the stored axes `[x, y, z]`.
pub type VoxelBox = [[usize; 2]; 3];

impl CasePlan {
    /// The plan of the first pass: windows over the whole volume that overlap little and are not mirrored. `None` if the
    /// case is segmented in one pass: as the bundle says, or because one window shows whole slices.
    pub fn search(&self) -> Option<Self> {
        let locate = self.locate?;
        let [_, rows, columns] = self.starts();
        if self.part.is_some() || rows.len() * columns.len() == 1 {
            return None;
        }
        let mut search = self.clone();
        search.overlap = [0.0, locate.overlap, locate.overlap];
        search.mirror = [false; 3];
        search.locate = None;
        search.rebuilt().ok()
    }

    /// The plan of the second pass: the planned windows within a margin around `found`, the box of what the first pass
    /// found; everywhere if it found nothing.
    #[must_use]
    pub fn around(&self, found: Option<VoxelBox>) -> Self {
        let mut everywhere = self.clone();
        everywhere.locate = None;
        let mut around = everywhere.clone();
        around.part = found.and_then(|found| self.part_around(found));
        around.rebuilt().unwrap_or(everywhere)
    }

    /// The part of the network's grid within the margin around a box.
    fn part_around(&self, found: VoxelBox) -> Option<[[usize; 2]; 3]> {
        let margin_mm = self.locate?.margin_mm;
        let mut stored = found;
        for (axis, spacing) in self.grid.axes.into_iter().zip(self.grid.spacing_mm) {
            let margin = (margin_mm / spacing).ceil() as usize;
            let [start, end] = found[axis];
            stored[axis] = [
                start.saturating_sub(margin),
                end.saturating_add(margin).min(self.grid.original_shape[axis]),
            ];
        }
        let crop = self.grid.cropped_to(stored)?.crop;
        let shape = self.grid.shape();
        let part = [0, 1, 2].map(|axis| {
            let scale = self.network_shape[axis] as f64 / shape[axis] as f64;
            let [start, end] = crop[axis].map(|end| (end - self.grid.crop[axis][0]) as f64 * scale);
            [start.floor() as usize, (end.ceil() as usize).min(self.network_shape[axis])]
        });
        Some(part)
    }
}

/// The box of the foreground in labels `[x, y, z]`; `None` if there is none.
pub fn foreground_box(labels: ArrayView3<u8>) -> Option<VoxelBox> {
    let mut found: Option<VoxelBox> = None;
    for ((x, y, z), _) in labels.indexed_iter().filter(|(_, label)| **label != 0) {
        let place = [x, y, z];
        let bounds = found.get_or_insert(place.map(|index| [index, index + 1]));
        for (bound, index) in bounds.iter_mut().zip(place) {
            *bound = [bound[0].min(index), bound[1].max(index + 1)];
        }
    }
    found
}
