//! The plan for one case: all steps before and after the network, made from headers only. It is small enough to send
//! with every window, and complete enough to assemble the labels without reading the images again.

use std::iter;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::align::{Regrid, TargetGrid, align};
use super::components::KeptComponents;
use super::dataset::CaseFiles;
use super::error::VolumeError;
use super::grid::{BoxMm, Grid};
use super::header::Header;
use super::image::expect_one_channel;
use super::interpolation::{Interpolation, across_slices};
use super::label_files::LabelFiles;
use super::warnings::warn_once;
use super::windows::starts_in;
use crate::bundle::{BundleConfig, Locate, Plane, SliceAxis};

/// If the voxels of a volume are this many times as long within the slices as across them, it was scanned along
/// another axis.
const COARSER: f64 = 2.0;
/// Most windows of a case; more means that patch or spacing do not suit the volume.
const MOST_WINDOWS: usize = 1 << 20;
/// Longest side of the network's grid, pixels or slices.
const LONGEST_SIDE: f64 = (1 << 16) as f64;

/// How one case is cut into windows for the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PlanRecord", into = "PlanRecord")]
pub struct CasePlan {
    /// The case's files.
    pub files: CaseFiles,
    /// Orientation and region of interest.
    pub grid: Grid,
    /// Slices, rows and columns after resampling, without padding.
    pub network_shape: [usize; 3],
    /// Slices, rows and columns of a window.
    pub patch: [usize; 3],
    /// Fraction by which neighbouring windows overlap along each axis.
    pub overlap: [f64; 3],
    /// Axes along which every window is also segmented mirrored (test-time augmentation).
    pub mirror: [bool; 3],
    /// Which connected components of the segmentation are kept.
    pub components: KeptComponents,
    /// Interpolation of images along the slice axis: linear, or nearest if voxels are much longer than wide.
    pub slice_interpolation: Interpolation,
    /// How to treat labels and further modalities on another grid than the first image.
    pub regrid: Regrid,
    /// The part of the network's grid that windows cover, `[start, end)` of slices, rows and columns; the rest is
    /// background. `None` = all of it.
    pub part: Option<[[usize; 2]; 3]>,
    /// How the place of the classes is found before windows are spent on it ([`CasePlan::search`]).
    pub locate: Option<Locate>,
    windows: Vec<[usize; 3]>,
}

/// [`CasePlan`] in the form in which it is sent; the windows follow from the rest.
#[derive(Clone, Serialize, Deserialize)]
struct PlanRecord {
    files: CaseFiles,
    grid: Grid,
    network_shape: [usize; 3],
    patch: [usize; 3],
    overlap: [f64; 3],
    #[serde(default)]
    mirror: [bool; 3],
    #[serde(default)]
    components: KeptComponents,
    slice_interpolation: Interpolation,
    #[serde(default)]
    regrid: Regrid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<[[usize; 2]; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locate: Option<Locate>,
}

/// Options for a case that come from the user, not the bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PlanOptions {
    /// Opposite corners of a box in world millimetres (RAS); outside the box nothing is computed and labels are
    /// zero.
    pub roi_mm: Option<BoxMm>,
    /// What becomes of labels and further modalities that lie on another grid than the first image.
    pub regrid: Regrid,
}

impl From<CasePlan> for PlanRecord {
    fn from(plan: CasePlan) -> Self {
        let CasePlan {
            files,
            grid,
            network_shape,
            patch,
            overlap,
            mirror,
            components,
            slice_interpolation,
            regrid,
            part,
            locate,
            windows: _,
        } = plan;
        Self {
            files,
            grid,
            network_shape,
            patch,
            overlap,
            mirror,
            components,
            slice_interpolation,
            regrid,
            part,
            locate,
        }
    }
}

impl TryFrom<PlanRecord> for CasePlan {
    type Error = String;

    fn try_from(record: PlanRecord) -> Result<Self, String> {
        let PlanRecord {
            files,
            grid,
            network_shape,
            patch,
            overlap,
            mirror,
            components,
            slice_interpolation,
            regrid,
            part,
            locate,
        } = record;
        let mut axes = grid.axes;
        axes.sort_unstable();
        if axes != [0, 1, 2] {
            return Err(format!("grid.axes {:?} is not a permutation", grid.axes));
        }
        for axis in 0..3 {
            let [start, end] = grid.crop[axis];
            if start >= end || end > grid.original_shape[grid.axes[axis]] {
                return Err(format!("grid.crop {:?} is not inside the volume", grid.crop));
            } else if network_shape[axis] == 0 || patch[axis] == 0 || !(0.0..1.0).contains(&overlap[axis]) {
                return Err("shapes must be positive, overlaps at least 0 and below 1".into());
            }
        }
        let covered = part.unwrap_or(network_shape.map(|length| [0, length]));
        for axis in 0..3 {
            let [start, end] = covered[axis];
            if start >= end || end > network_shape[axis] {
                return Err(format!("part {part:?} is not inside the network's grid {network_shape:?}"));
            }
        }
        let [depth, rows, columns] =
            [0, 1, 2].map(|axis| starts_in(covered[axis], network_shape[axis], patch[axis], overlap[axis]));
        let views = views(mirror);
        let count = [&rows, &columns]
            .iter()
            .fold(depth.len().saturating_mul(views), |count, starts| count.saturating_mul(starts.len()));
        if count > MOST_WINDOWS {
            return Err(format!("{count} windows of {patch:?} over {network_shape:?} are too many"));
        }
        let mut windows = Vec::with_capacity(count);
        for &slice in &depth {
            for &row in &rows {
                for &column in &columns {
                    windows.extend(iter::repeat_n([slice, row, column], views));
                }
            }
        }
        Ok(Self {
            files,
            grid,
            network_shape,
            patch,
            overlap,
            mirror,
            components,
            slice_interpolation,
            regrid,
            part,
            locate,
            windows,
        })
    }
}

/// Number of mirrored variants of each window: one for every combination of the mirrored axes.
fn views(mirror: [bool; 3]) -> usize {
    mirror.iter().filter(|&&mirrored| mirrored).fold(1, |views, _| 2 * views)
}

impl CasePlan {
    /// As [`CasePlan::with_options`], with a region of interest only; other grids are refused.
    ///
    /// # Errors
    /// Those of [`CasePlan::with_options`].
    pub fn new(files: &CaseFiles, config: &BundleConfig, roi_mm: Option<BoxMm>) -> Result<Self, VolumeError> {
        Self::with_options(files, config, &PlanOptions { roi_mm, ..PlanOptions::default() })
    }

    /// Plans a case from the headers of its files.
    ///
    /// # Errors
    /// Those of [`Header::read`], [`VolumeError::ModalityCount`], [`VolumeError::Dimensions`] (a 4D file among
    /// several), [`VolumeError::OtherGrid`] (modalities or labels), [`VolumeError::Outside`] (region) and
    /// [`VolumeError::Header`] (an unreasonably large resampled grid or number of windows).
    pub fn with_options(
        files: &CaseFiles,
        config: &BundleConfig,
        options: &PlanOptions,
    ) -> Result<Self, VolumeError> {
        let header = check_files(files, config.modalities.len(), options.regrid)?;
        let whole = Grid::new(header.shape(), header.world_from_voxel(), config.slice_axis);
        warn_of_slice_axis(&whole, config.slice_axis, header.path());
        let grid = match &options.roi_mm {
            None => whole,
            Some(region) => whole.cropped(region).ok_or_else(|| VolumeError::Outside {
                path: header.path().into(),
                what: "the region of interest".into(),
            })?,
        };
        Self::on_grid(files, grid, config, options.regrid)
            .map_err(|reason| VolumeError::Header { path: header.path().into(), reason })
    }

    /// Plans a case whose first image has this grid.
    ///
    /// # Errors
    /// An unreasonably large resampled grid or number of windows.
    pub fn on_grid(
        files: &CaseFiles,
        grid: Grid,
        config: &BundleConfig,
        regrid: Regrid,
    ) -> Result<Self, String> {
        let network_shape = network_shape(&grid, config)?;
        let [height, width] = config.patch.plane.size();
        let depth = match config.depth_is_fixed() {
            true => config.patch.depth,
            false => config.patch.depth.min(network_shape[0]),
        };
        Self::try_from(PlanRecord {
            files: files.clone(),
            network_shape,
            patch: [depth, height, width],
            overlap: [config.patch.depth_overlap, config.patch.plane_overlap, config.patch.plane_overlap],
            mirror: config.patch.mirror,
            components: KeptComponents::of(config),
            slice_interpolation: across_slices(std::iter::once(grid.spacing_mm).chain(config.spacing_mm)),
            regrid,
            part: None,
            locate: config.patch.locate,
            grid,
        })
    }

    /// First slice, row and column of each window in the network's grid, ordered by slice, row, column and mirrored
    /// variant. A window that is larger than the grid extends beyond its end.
    pub fn windows(&self) -> &[[usize; 3]] {
        &self.windows
    }

    /// Axes along which window `k` is mirrored.
    pub fn mirrored(&self, k: usize) -> [bool; 3] {
        let mut view = k % self.views();
        self.mirror.map(|mirrors| {
            let is_mirrored = mirrors && view % 2 == 1;
            view >>= u32::from(mirrors);
            is_mirrored
        })
    }

    /// Rows and columns of window `k` that the volume covers, `[first, end]` each; the rest is padding. `None` if
    /// there is no padding.
    pub fn covered(&self, k: usize) -> Option<[[i64; 2]; 2]> {
        let (start, mirrored) = (self.windows[k], self.mirrored(k));
        let covered = [1, 2].map(|axis| {
            let side = self.patch[axis] as i64;
            let inside = (self.network_shape[axis] - start[axis]) as i64;
            if mirrored[axis] { [(side - inside).max(0), side] } else { [0, inside.min(side)] }
        });
        let [_, height, width] = self.patch.map(|side| side as i64);
        (covered != [[0, height], [0, width]]).then_some(covered)
    }

    /// Number of windows at each position.
    pub(super) fn views(&self) -> usize {
        views(self.mirror)
    }

    /// The plan with the windows that follow from its fields.
    pub(super) fn rebuilt(self) -> Result<Self, String> {
        PlanRecord::from(self).try_into()
    }

    /// Size of a window in slices, rows and columns: `[D, H, W]`.
    pub fn patch(&self) -> [usize; 3] {
        self.patch
    }

    /// Start positions along each axis. [`CasePlan::windows`] has all their combinations, [`CasePlan::views`] times
    /// each.
    pub(super) fn starts(&self) -> [Vec<usize>; 3] {
        let covered = self.part.unwrap_or(self.network_shape.map(|length| [0, length]));
        [0, 1, 2].map(|axis| {
            starts_in(covered[axis], self.network_shape[axis], self.patch[axis], self.overlap[axis])
        })
    }

    /// The grid of the case's first image, to which labels and further modalities are brought.
    pub fn target(&self) -> TargetGrid<'_> {
        let Grid { original_shape, world_from_voxel, .. } = &self.grid;
        TargetGrid { path: self.path(), shape: *original_shape, world_from_voxel }
    }

    /// Path of the case's first image, for messages.
    pub(super) fn path(&self) -> &Path {
        self.files.images.first().map_or(Path::new(""), |path| path)
    }
}

/// Checks that all files of the case fit together, and returns the header of the first image.
fn check_files(files: &CaseFiles, modalities: usize, regrid: Regrid) -> Result<Header, VolumeError> {
    let (first, others) = files.images.split_first().ok_or_else(|| VolumeError::ModalityCount {
        path: files.case_id.clone().into(),
        found: 0,
        expected: modalities,
    })?;
    let header = Header::read(first)?;
    if !others.is_empty() {
        expect_one_channel(&header)?;
    }
    let found = if others.is_empty() { header.channels() } else { files.images.len() };
    if found != modalities {
        return Err(VolumeError::ModalityCount { path: first.clone(), found, expected: modalities });
    }
    let labels = files.labels.iter().flat_map(LabelFiles::files);
    for path in others.iter().map(|path| &**path).chain(labels) {
        let other = Header::read(path)?;
        expect_one_channel(&other)?;
        // Resampling is checked and announced when voxels are read.
        if regrid == Regrid::Refuse {
            align(&other, &TargetGrid::from(&header), regrid)?;
        }
    }
    Ok(header)
}

/// Warns that the volume was scanned in slices along another axis than the model's.
fn warn_of_slice_axis(grid: &Grid, slice_axis: SliceAxis, path: &Path) {
    let [slice, row, column] = grid.spacing_mm;
    let coarsest = row.max(column);
    if coarsest >= COARSER * slice && grid.shape()[0] > 1 {
        let axis = slice_axis.name();
        warn_once(
            path,
            format!(
                "its voxels are {coarsest:.2} mm long within the {axis} slices of the model, which are {slice:.2} mm apart: it \
                 was probably scanned along another axis (--slice-axis says which)"
            ),
        );
    }
}

fn network_shape(grid: &Grid, config: &BundleConfig) -> Result<[usize; 3], String> {
    let shape = grid.shape();
    let at_spacing = |axis: usize| match config.spacing_mm {
        Some(target) => shape[axis] as f64 * grid.spacing_mm[axis] / target[axis],
        None => shape[axis] as f64,
    };
    let sides = match config.patch.plane {
        Plane::WholeSlice(side) => {
            let scale = side as f64 / shape[1].max(shape[2]) as f64;
            [at_spacing(0), shape[1] as f64 * scale, shape[2] as f64 * scale]
        }
        Plane::Window(_) => [0, 1, 2].map(at_spacing),
    };
    if let Some(side) = sides.iter().find(|side| **side >= LONGEST_SIDE) {
        return Err(format!("{side:.0} voxels along an axis after resampling"));
    }
    Ok(sides.map(|side| (side.round() as usize).max(1)))
}
