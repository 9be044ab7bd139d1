//! From the stored grid to the network's and back: closest canonical orientation (RAS+), the model's slice axis,
//! region of interest. Nothing here interpolates, so every step can be undone exactly.

use ndarray::{Array3, ArrayBase, ArrayView3, ArrayViewMut3, Axis, Ix3, RawData, Slice};
use serde::{Deserialize, Serialize};

use super::affine::{Affine, apply, column_norms, inverse, nearest_rotation};
use crate::bundle::SliceAxis;

/// Two opposite corners of a box, world millimetres (RAS).
pub type BoxMm = [[f64; 3]; 2];

/// Position of the cropped, canonically oriented volume in the stored one. "Network axes" are `[slice, row,
/// column]`, which is `[z, y, x]` for axial slices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Voxels along the stored axes `[x, y, z]`.
    pub original_shape: [usize; 3],
    /// Stored axis of each network axis.
    pub axes: [usize; 3],
    /// Whether the network axis runs opposite to its stored axis.
    pub flips: [bool; 3],
    /// Voxel sizes along the network axes, mm.
    pub spacing_mm: [f64; 3],
    /// Range of voxels kept, `[start, end)` along the network axes.
    pub crop: [[usize; 2]; 3],
    /// Maps stored voxel indices to world millimetres (RAS).
    pub world_from_voxel: Affine,
}

impl Grid {
    /// The grid of a whole volume.
    ///
    /// The orientation is nibabel's `as_closest_canonical`. Slices are stacked along `slice_axis`; but a volume with
    /// a single voxel along exactly one axis is one slice, whatever the axis.
    pub fn new(original_shape: [usize; 3], world_from_voxel: Affine, slice_axis: SliceAxis) -> Self {
        let (stored_axis, is_flipped) = closest_canonical(&world_from_voxel);
        let stored_spacing = column_norms(&world_from_voxel);
        let spacing = stored_axis.map(|axis| stored_spacing[axis]);
        let shape = stored_axis.map(|axis| original_shape[axis]);
        let slice_axis = only_single(shape).unwrap_or(slice_axis.canonical());
        let mut in_plane = [2, 1, 0].into_iter().filter(|&axis| axis != slice_axis);
        let order = [slice_axis, in_plane.next().unwrap_or(1), in_plane.next().unwrap_or(0)];
        Self {
            original_shape,
            axes: order.map(|axis| stored_axis[axis]),
            flips: order.map(|axis| is_flipped[axis]),
            spacing_mm: order.map(|axis| spacing[axis]),
            crop: order.map(|axis| [0, shape[axis]]),
            world_from_voxel,
        }
    }

    /// The grid cropped to the voxels that `region` touches; `None` if it touches none.
    pub fn cropped(&self, region: &BoxMm) -> Option<Self> {
        self.cropped_to(self.voxel_range(region)?)
    }

    /// The grid cropped to a range of voxels, `[start, end)` along the stored axes; `None` if nothing is left.
    pub fn cropped_to(&self, stored: [[usize; 2]; 3]) -> Option<Self> {
        let mut crop = self.crop;
        for (network_axis, [kept_start, kept_end]) in crop.iter_mut().enumerate() {
            let axis = self.axes[network_axis];
            let [start, end] = stored[axis];
            let length = self.original_shape[axis];
            let range = if self.flips[network_axis] { [length - end, length - start] } else { [start, end] };
            *kept_start = range[0].max(*kept_start);
            *kept_end = range[1].min(*kept_end);
            if kept_start >= kept_end {
                return None;
            }
        }
        Some(Self { crop, ..self.clone() })
    }

    /// Stored voxels `[start, end)` that a world box touches, limited to the volume; `None` if there are none.
    pub fn voxel_range(&self, region: &BoxMm) -> Option<[[usize; 2]; 3]> {
        const ROUNDING: f64 = 1e-6; // a face on the border between two voxels touches only one of them
        let voxel_from_world = inverse(&self.world_from_voxel)?;
        let mut low = [f64::INFINITY; 3];
        let mut high = [f64::NEG_INFINITY; 3];
        for corner in 0..8 {
            let world = [0, 1, 2].map(|axis| region[(corner >> axis) & 1][axis]);
            let voxel = apply(&voxel_from_world, world);
            for axis in 0..3 {
                low[axis] = low[axis].min(voxel[axis]);
                high[axis] = high[axis].max(voxel[axis]);
            }
        }
        let mut range = [[0; 2]; 3];
        for axis in 0..3 {
            let length = self.original_shape[axis] as f64;
            let start = (low[axis] + 0.5 + ROUNDING).floor().max(0.0);
            let end = (high[axis] + 0.5 - ROUNDING).ceil().max(start + 1.0).min(length);
            if !(start < end && low[axis].is_finite() && high[axis] > -0.5) {
                return None;
            }
            range[axis] = [start as usize, end as usize];
        }
        Some(range)
    }

    /// Number of voxels along the network axes before resampling.
    pub fn shape(&self) -> [usize; 3] {
        self.crop.map(|[start, end]| end - start)
    }

    /// The network's view `[slice, row, column]` of a stored volume `[x, y, z]`.
    pub fn to_network<'a, T>(&self, stored: ArrayView3<'a, T>) -> ArrayView3<'a, T> {
        self.oriented(stored)
    }

    /// As [`Grid::to_network`], mutable.
    pub fn to_network_mut<'a, T>(&self, stored: ArrayViewMut3<'a, T>) -> ArrayViewMut3<'a, T> {
        self.oriented(stored)
    }

    /// The stored volume `[x, y, z]` (x fastest in memory) of a network volume `[slice, row, column]`; zero outside
    /// the crop.
    pub fn to_stored<T: Clone + Default>(&self, network: ArrayView3<T>) -> Array3<T> {
        let mut stored = self.empty_stored();
        self.to_network_mut(stored.view_mut()).assign(&network);
        stored
    }

    /// A stored volume `[x, y, z]` of zeros, x fastest in memory.
    pub fn empty_stored<T: Clone + Default>(&self) -> Array3<T> {
        let [x, y, z] = self.original_shape;
        let reversed = Array3::from_elem((z, y, x), T::default());
        reversed.reversed_axes()
    }

    fn oriented<S: RawData>(&self, stored: ArrayBase<S, Ix3>) -> ArrayBase<S, Ix3> {
        let mut network = stored.permuted_axes(self.axes);
        for (axis, (&is_flipped, &[start, end])) in self.flips.iter().zip(&self.crop).enumerate() {
            if is_flipped {
                network.invert_axis(Axis(axis));
            }
            network.slice_axis_inplace(Axis(axis), Slice::from(start..end));
        }
        network
    }
}

/// Orientation of the stored axes in nibabel's notation (`aff2axcodes`): `RAS` means left to right, back to front,
/// bottom to top.
pub fn orientation_code(world_from_voxel: &Affine) -> String {
    let (stored_axis, is_flipped) = closest_canonical(world_from_voxel);
    let mut code = ['?'; 3];
    for (world, [up, down]) in [['R', 'L'], ['A', 'P'], ['S', 'I']].into_iter().enumerate() {
        code[stored_axis[world]] = if is_flipped[world] { down } else { up };
    }
    code.into_iter().collect()
}

/// Stored axis and direction for each of the world's axes (right, front, top).
///
/// As nibabel's `io_orientation`: each stored axis is assigned to the world axis closest to it in the nearest
/// rotation, the most clearly aligned axes first.
fn closest_canonical(world_from_voxel: &Affine) -> ([usize; 3], [bool; 3]) {
    let Some(mut rotation) = nearest_rotation(world_from_voxel) else {
        return ([0, 1, 2], [false; 3]);
    };
    let decidedness = |axis: usize| rotation.iter().map(|row| row[axis] * row[axis]).fold(0.0, f64::max);
    let mut by_decidedness = [0, 1, 2].map(|axis| (axis, decidedness(axis)));
    by_decidedness.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut stored_axis = [0; 3];
    let mut is_flipped = [false; 3];
    let mut is_taken = [false; 3];
    for (axis, _) in by_decidedness {
        let mut best: Option<usize> = None;
        for world in (0..3).filter(|&world| !is_taken[world]) {
            if best.is_none_or(|best| rotation[world][axis].abs() > rotation[best][axis].abs()) {
                best = Some(world);
            }
        }
        let world = best.unwrap_or(axis);
        stored_axis[world] = axis;
        is_flipped[world] = rotation[world][axis] < 0.0;
        is_taken[world] = true;
        rotation[world] = [0.0; 3];
    }
    (stored_axis, is_flipped)
}

/// The only axis with a single voxel.
fn only_single(shape: [usize; 3]) -> Option<usize> {
    let mut single = (0..3).filter(|&axis| shape[axis] == 1);
    match (single.next(), single.next()) {
        (Some(axis), None) => Some(axis),
        _ => None,
    }
}
