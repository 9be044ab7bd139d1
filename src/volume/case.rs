//! One case in memory, normalised, from which the network's windows are cut.
//!
//! The volume is kept at its own resolution and resampled window by window, so memory does not grow with the
//! network's resolution. While reading, two f32 copies of one modality are in memory; afterwards, one of each
//! modality.

use ndarray::{Array, Array3, Array4, ArrayView, ArrayView3, Axis, Dimension, s};

use super::align::align;
use super::boxes::labels_from_boxes;
use super::classes::ClassTable;
use super::error::VolumeError;
use super::grid::{BoxMm, Grid};
use super::ignore::IgnoreValues;
use super::image::{VoxelReader, read_labels_on};
use super::interpolation::Interpolation;
use super::normalise::normalise;
use super::plan::CasePlan;
use crate::array::{Blend, Tap, blend_plane, blends, mix, resample_plane};
use crate::bundle::{BundleConfig, Normalisation};

/// A case from which windows can be cut.
#[derive(Debug)]
pub struct PreparedCase {
    plan: CasePlan,
    /// `[M, slice, row, column]`, cropped, normalised.
    images: Array4<f32>,
    /// `[slice, row, column]`, cropped.
    labels: Option<Array3<u8>>,
    image_taps: [Vec<Tap>; 3],
    /// Blends of rows and columns, for a network whose images are prepared as in SAM.
    image_blends: Option<[Vec<Blend>; 2]>,
    label_taps: [Vec<Tap>; 3],
}

impl PreparedCase {
    /// Reads the case's images and, if it has them, labels.
    ///
    /// # Errors
    /// Those of [`super::Image::read`] and [`read_labels_on`], also if a file has changed since the plan was made.
    pub fn open(plan: &CasePlan, config: &BundleConfig) -> Result<Self, VolumeError> {
        let images = read_images(plan, config)?;
        let labels = match &plan.files.labels {
            None => None,
            Some(files) => {
                let labels = files.read(|path| read_labels_on(path, &plan.target(), plan.regrid))?;
                Some(oriented(&plan.grid, labels.view()))
            }
        };
        Ok(Self { labels, ..Self::of_images(plan, config, images) })
    }

    /// A case without files: `images` are `[M, slice, row, column]`, cropped as planned and normalised.
    ///
    /// # Panics
    /// If they have another shape than the plan's grid.
    pub fn of_images(plan: &CasePlan, config: &BundleConfig, images: Array4<f32>) -> Self {
        assert_eq!(images.shape()[1..], plan.grid.shape(), "images on another grid than planned");
        let to_network = |interpolations: [Interpolation; 3]| {
            [0, 1, 2].map(|axis| interpolations[axis].taps(plan.grid.shape()[axis], plan.network_shape[axis]))
        };
        let in_plane = Interpolation::Linear;
        Self {
            images,
            labels: None,
            image_taps: to_network([plan.slice_interpolation, in_plane, in_plane]),
            image_blends: config
                .prepares_as_sam()
                .then(|| [1, 2].map(|axis| blends(plan.grid.shape()[axis], plan.network_shape[axis]))),
            label_taps: to_network([Interpolation::Nearest; 3]),
            plan: plan.clone(),
        }
    }

    /// As [`PreparedCase::open`], with labels made from named boxes in world millimetres (RAS) instead of a label
    /// volume. Voxels whose centre lies inside a box get its class (at least one voxel does); later boxes overwrite
    /// earlier ones. A box is a class, a name and two corners.
    ///
    /// # Errors
    /// As [`PreparedCase::open`]; [`VolumeError::Outside`] names a box that does not touch the volume.
    pub fn from_boxes(
        plan: &CasePlan,
        config: &BundleConfig,
        boxes: &[(u8, String, BoxMm)],
    ) -> Result<Self, VolumeError> {
        let labels = labels_from_boxes(&plan.grid, boxes)
            .map_err(|name| VolumeError::Outside { path: plan.path().into(), what: format!("box {name}") })?;
        let mut plan = plan.clone();
        plan.files.labels = None;
        let mut case = Self::open(&plan, config)?;
        case.labels = Some(oriented(&plan.grid, labels.view()));
        Ok(case)
    }

    /// Replaces the values of the label volume by indices into `classes`, and ignored values by the background.
    ///
    /// # Errors
    /// [`VolumeError::UnknownLabel`].
    pub fn classify(&mut self, classes: &ClassTable, ignore: &IgnoreValues) -> Result<(), VolumeError> {
        let Some(labels) = &mut self.labels else { return Ok(()) };
        ignore.clear(labels);
        classes.to_indices(labels).map_err(|value| {
            let path =
                self.plan.files.labels.as_ref().map(|files| files.path().to_path_buf()).unwrap_or_default();
            VolumeError::UnknownLabel { path, value }
        })
    }

    /// The same case with other windows.
    ///
    /// # Panics
    /// If the plan is that of another case or grid.
    #[must_use]
    pub fn with_plan(self, plan: CasePlan) -> Self {
        let is_same = plan.grid == self.plan.grid && plan.network_shape == self.plan.network_shape;
        assert!(is_same, "the plan of another case");
        Self { plan, ..self }
    }

    /// The plan of this case.
    pub fn plan(&self) -> &CasePlan {
        &self.plan
    }

    /// Window `k` of [`CasePlan::windows`]: `[M, D, H, W]`, zero (after normalisation) beyond the volume, mirrored
    /// as planned.
    ///
    /// # Panics
    /// If the plan has no window `k`.
    pub fn window(&self, k: usize) -> Array4<f32> {
        let [depth, height, width] = self.plan.patch;
        let start = self.plan.windows()[k];
        let [slices, rows, columns] = window_taps(&self.image_taps, start, self.plan.patch);
        let (modalities, _, _, row_length) = self.images.dim();
        let mut window = Array4::zeros((modalities, depth, height, width));
        for (image, mut out) in self.images.outer_iter().zip(window.outer_iter_mut()) {
            for (tap, mut out) in slices.iter().zip(out.outer_iter_mut()) {
                let low = image.index_axis_move(Axis(0), tap.low);
                let high = image.index_axis_move(Axis(0), tap.high);
                let (Some(low), Some(high), Some(out)) =
                    (low.to_slice(), high.to_slice(), out.as_slice_mut())
                else {
                    continue; // impossible: our arrays are contiguous
                };
                let mixed = (tap.weight != 0.0).then(|| {
                    let mut plane = vec![0.0; low.len()];
                    mix(low, high, tap.weight, &mut plane);
                    plane
                });
                let plane = mixed.as_deref().unwrap_or(low);
                match &self.image_blends {
                    None => resample_plane(plane, row_length, rows, columns, out, width),
                    Some(all) => {
                        let [rows, columns] =
                            [1, 2].map(|axis| part(&all[axis - 1], start[axis], self.plan.patch[axis]));
                        blend_plane(plane, row_length, rows, columns, out, width);
                    }
                }
            }
        }
        mirrored(window, self.plan.mirrored(k))
    }

    /// Labels of window `k`: `[D, H, W]`, nearest-neighbour, zero beyond the volume, mirrored as planned; `None` if
    /// the case has no labels.
    ///
    /// # Panics
    /// If the plan has no window `k`.
    pub fn label_window(&self, k: usize) -> Option<Array3<u8>> {
        let labels = self.labels.as_ref()?;
        let [slices, rows, columns] = window_taps(&self.label_taps, self.plan.windows()[k], self.plan.patch);
        let mut window = Array3::zeros(self.plan.patch);
        for (slice, mut out) in slices.iter().zip(window.outer_iter_mut()) {
            for (row, mut out) in rows.iter().zip(out.outer_iter_mut()) {
                let from = labels.slice(s![slice.low, row.low, ..]);
                out.iter_mut().zip(columns).for_each(|(out, column)| *out = from[column.low]);
            }
        }
        Some(mirrored(window, self.plan.mirrored(k)))
    }
}

fn mirrored<T: Clone, D: Dimension>(window: Array<T, D>, axes: [bool; 3]) -> Array<T, D> {
    if axes == [false; 3] { window } else { mirror(window.view(), axes).as_standard_layout().into_owned() }
}

/// Mirrors the last three axes as `axes` says.
pub(super) fn mirror<T, D: Dimension>(mut view: ArrayView<T, D>, axes: [bool; 3]) -> ArrayView<T, D> {
    let first = view.ndim() - axes.len();
    for axis in (0..axes.len()).filter(|&axis| axes[axis]) {
        view.invert_axis(Axis(first + axis));
    }
    view
}

/// The part of the taps that a window covers.
fn window_taps(taps: &[Vec<Tap>; 3], start: [usize; 3], patch: [usize; 3]) -> [&[Tap]; 3] {
    [0, 1, 2].map(|axis| part(&taps[axis], start[axis], patch[axis]))
}

fn part<T>(of_axis: &[T], start: usize, length: usize) -> &[T] {
    &of_axis[start..(start + length).min(of_axis.len())]
}

fn oriented<T: Copy + Default>(grid: &Grid, stored: ArrayView3<T>) -> Array3<T> {
    let view = grid.to_network(stored);
    let mut network = Array3::from_elem(view.dim(), T::default());
    network.assign(&view);
    network
}

/// All modalities `[M, slice, row, column]`, each normalised as a whole and then cropped, or cropped first if the
/// bundle says so.
fn read_images(plan: &CasePlan, config: &BundleConfig) -> Result<Array4<f32>, VolumeError> {
    let [slices, rows, columns] = plan.grid.shape();
    let modalities = config.modalities.len();
    let of_region = config.normalisation == Normalisation::ZScoreRegion;
    let target = plan.target();
    let mut images = Array4::zeros((modalities, slices, rows, columns));
    let mut modality = 0;
    for path in &plan.files.images {
        let mut reader = VoxelReader::open(path)?;
        let alignment = align(&reader.header, &target, plan.regrid)?;
        let found = (plan.files.images.len() - 1) + reader.header.channels();
        if found != modalities {
            return Err(VolumeError::ModalityCount { path: path.clone(), found, expected: modalities });
        }
        for _ in 0..reader.header.channels() {
            let mut voxels = alignment.linear(reader.read_channel()?, target.shape);
            if let Some(voxels) = voxels.as_slice_memory_order_mut().filter(|_| !of_region) {
                normalise(voxels, &config.normalisation);
            }
            let mut image = images.index_axis_mut(Axis(0), modality);
            image.assign(&plan.grid.to_network(voxels.view()));
            if let Some(voxels) = image.as_slice_mut().filter(|_| of_region) {
                normalise(voxels, &config.normalisation);
            }
            modality += 1;
        }
        reader.finish()?;
    }
    Ok(images)
}
