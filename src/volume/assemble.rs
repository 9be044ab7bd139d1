//! Labels of a whole volume on the original grid, from the logits of its windows.
//!
//! Overlapping windows are blended with Gaussian weights (nnU-Net's sliding window). Logits are kept only for the
//! network slices that a later window, or the next slice of labels, still needs. At the original resolution only one
//! row of logits exists at a time.

use std::collections::{BTreeMap, VecDeque};

use ndarray::{Array3, Array4, ArrayView4, Axis, s};
use rayon::prelude::*;

use super::case::mirror;
use super::error::VolumeError;
use super::interpolation::Interpolation;
use super::plan::CasePlan;
use super::windows::shares;
use crate::array::{Tap, mix, resample_row};

/// Assembles one case. The result depends only on the logits, not on the order in which windows arrive.
#[derive(Debug)]
pub struct LabelAssembler {
    plan: CasePlan,
    classes: usize,
    /// For each axis and start along it, the blending weight of each of the window's samples.
    shares: [Vec<Vec<f32>>; 3],
    /// Network grid to original grid.
    taps: [Vec<Tap>; 3],
    has_arrived: Vec<bool>,
    /// Windows that arrived before their turn.
    waiting: BTreeMap<usize, Array4<f32>>,
    /// The window to blend next.
    next: usize,
    /// Blended logits `[N, row, column]` of network slices from `first_slice` on.
    slices: VecDeque<Array3<f32>>,
    first_slice: usize,
    /// Memory of finished slices, for reuse.
    spare: Vec<Array3<f32>>,
    /// Number of finished label slices.
    finished: usize,
    /// `[x, y, z]` as stored.
    labels: Array3<u8>,
}

impl LabelAssembler {
    /// An assembler for logits of `classes` classes, at most 256.
    pub fn new(plan: &CasePlan, classes: usize) -> Self {
        let starts = plan.starts();
        let crop = plan.grid.shape();
        Self {
            classes,
            shares: [0, 1, 2].map(|axis| shares(&starts[axis], plan.network_shape[axis], plan.patch[axis])),
            taps: [0, 1, 2].map(|axis| Interpolation::Linear.taps(plan.network_shape[axis], crop[axis])),
            has_arrived: vec![false; plan.windows().len()],
            waiting: BTreeMap::new(),
            next: 0,
            slices: VecDeque::new(),
            first_slice: 0,
            spare: Vec::new(),
            finished: 0,
            labels: plan.grid.empty_stored(),
            plan: plan.clone(),
        }
    }

    /// Takes the logits `[N, D, H, W]` of a window, mirrored like the window. Logits beyond the volume are ignored.
    /// Returns false for a window that has arrived before, which is ignored.
    ///
    /// # Errors
    /// [`VolumeError::Window`] for a window that is not in the plan, or for logits of another shape.
    pub fn push(&mut self, window: usize, logits: ArrayView4<f32>) -> Result<bool, VolumeError> {
        let [depth, height, width] = self.plan.patch;
        let wrong = |reason| VolumeError::Window { case: self.plan.files.case_id.clone(), reason };
        let Some(&has_arrived) = self.has_arrived.get(window) else {
            let count = self.has_arrived.len();
            return Err(wrong(format!("there is no window {window} in a plan with {count}")));
        };
        let expected = (self.classes, depth, height, width);
        if logits.dim() != expected {
            let found = logits.dim();
            return Err(wrong(format!(
                "logits of window {window} have shape {found:?}, expected {expected:?}"
            )));
        } else if has_arrived {
            return Ok(false);
        }
        self.has_arrived[window] = true;
        if window != self.next {
            self.waiting.insert(window, logits.to_owned());
            return Ok(true);
        }
        self.blend(logits);
        while let Some(logits) = self.waiting.remove(&self.next) {
            self.blend(logits.view());
        }
        Ok(true)
    }

    /// Windows that have not arrived.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.has_arrived.len()).filter(|&window| !self.has_arrived[window]).collect()
    }

    /// The labels `[x, y, z]` on the original grid in stored order: the class with the largest logit (the first in
    /// case of a tie), 0 outside the region of interest and of the planned part. They are complete only if [`LabelAssembler::missing`] is
    /// empty: from the first missing window on, slices are 0. Only the components that the
    /// plan keeps remain.
    #[must_use]
    pub fn finish(mut self) -> Array3<u8> {
        self.plan.components.apply(&mut self.labels);
        self.labels
    }

    /// Adds the next window, then finishes every slice that no later window covers.
    fn blend(&mut self, logits: ArrayView4<f32>) {
        let [depth_starts, row_starts, column_starts] = [0, 1, 2].map(|axis| self.shares[axis].len());
        let (window, views) = (self.next, self.plan.views());
        let place = window / views;
        let index = [
            place / (row_starts * column_starts) % depth_starts,
            place / column_starts % row_starts,
            place % column_starts,
        ];
        let [slice, row, column] = self.plan.windows()[window];
        let [slices, rows, columns] = self.plan.network_shape;
        let [end_slice, end_row, end_column] = {
            let [depth, height, width] = self.plan.patch;
            [(slice + depth).min(slices), (row + height).min(rows), (column + width).min(columns)]
        };
        self.hold_until(end_slice);
        let logits = mirror(logits, self.plan.mirrored(window));
        let [depth_shares, row_shares, column_shares] = [0, 1, 2].map(|axis| &self.shares[axis][index[axis]]);
        for (offset, depth_share) in depth_shares.iter().enumerate().take(end_slice - slice) {
            let blended = &mut self.slices[slice + offset - self.first_slice];
            let mut blended = blended.slice_mut(s![.., row..end_row, column..end_column]);
            let logits = logits.slice(s![.., offset, ..end_row - row, ..end_column - column]);
            let classes: Vec<_> = blended.outer_iter_mut().zip(logits.outer_iter()).collect();
            classes.into_par_iter().for_each(|(mut blended, logits)| {
                let rows = blended.outer_iter_mut().zip(logits.outer_iter()).zip(row_shares);
                for ((mut blended, logits), row_share) in rows {
                    let share = depth_share * row_share / views as f32;
                    for ((sum, logit), column_share) in blended.iter_mut().zip(logits).zip(column_shares) {
                        *sum += logit * (share * column_share);
                    }
                }
            });
        }
        self.next += 1;
        match self.plan.windows().get(self.next) {
            Some(&[slice, _, _]) => self.finish_slices(slice),
            None => {
                // Behind the planned part all is background.
                self.hold_until(slices);
                self.finish_slices(slices);
            }
        }
    }

    /// Makes room for the logits of all slices before `end`, which are 0 until a window is blended.
    fn hold_until(&mut self, end: usize) {
        let [_, rows, columns] = self.plan.network_shape;
        while self.first_slice + self.slices.len() < end {
            let slice = match self.spare.pop() {
                Some(mut slice) => {
                    slice.fill(0.0);
                    slice
                }
                None => Array3::zeros((self.classes, rows, columns)),
            };
            self.slices.push_back(slice);
        }
    }

    /// Labels every slice that lies between network slices before `complete`, and releases the logits that are no
    /// longer needed.
    fn finish_slices(&mut self, complete: usize) {
        while let Some(&tap) = self.taps[0].get(self.finished).filter(|tap| tap.high < complete) {
            let labels = self.label_slice(tap);
            let mut network = self.plan.grid.to_network_mut(self.labels.view_mut());
            let mut slice = network.index_axis_mut(Axis(0), self.finished);
            slice.iter_mut().zip(labels).for_each(|(to, label)| *to = label);
            self.finished += 1;
        }
        let needed = self.taps[0].get(self.finished).map_or(complete, |tap| tap.low.min(complete));
        while self.first_slice < needed
            && let Some(slice) = self.slices.pop_front()
        {
            self.spare.push(slice);
            self.first_slice += 1;
        }
    }

    /// Labels of one original slice, computed row by row.
    fn label_slice(&self, depth: Tap) -> Vec<u8> {
        let [_, rows, columns] = &self.taps;
        let low = &self.slices[depth.low - self.first_slice];
        let high = &self.slices[depth.high - self.first_slice];
        let network_columns = self.plan.network_shape[2];
        let mut labels = vec![0; rows.len() * columns.len()];
        let buffers = || (RowBuffers::new(network_columns, columns.len()), vec![0.0f32; columns.len()]);
        labels.par_chunks_mut(columns.len()).zip(rows).for_each_init(
            buffers,
            |(buffers, best), (labels, row)| {
                let mut lowest_best = f32::NEG_INFINITY;
                for class in 0..self.classes {
                    buffers.mix(low, high, depth.weight, class, row);
                    if class == 0 {
                        best.copy_from_slice(buffers.resample(columns));
                        lowest_best = extreme(best, |a, b| a < b);
                        continue;
                    } else if buffers.stays_below(lowest_best) {
                        continue; // true for most classes in most rows
                    }
                    let logits = buffers.resample(columns);
                    // Written without a branch, so that the compiler can vectorise the loop.
                    for ((label, best), &logit) in labels.iter_mut().zip(best.iter_mut()).zip(logits) {
                        let wins = logit > *best;
                        *best = if wins { logit } else { *best };
                        *label = if wins { class as u8 } else { *label };
                    }
                    lowest_best = extreme(best, |a, b| a < b);
                }
            },
        );
        labels
    }
}

/// Memory for one row of logits.
struct RowBuffers {
    low: Vec<f32>,
    high: Vec<f32>,
    mixed: Vec<f32>,
    out: Vec<f32>,
}

impl RowBuffers {
    fn new(network_columns: usize, columns: usize) -> Self {
        let network_row = || vec![0.0; network_columns];
        Self { low: network_row(), high: network_row(), mixed: network_row(), out: vec![0.0; columns] }
    }

    /// Interpolates one class's logits along a row of the original grid, at the network's columns, for `stays_below`
    /// and `resample`.
    fn mix(&mut self, low: &Array3<f32>, high: &Array3<f32>, depth_weight: f32, class: usize, row: &Tap) {
        if depth_weight > 0.0 {
            mix_rows(low, class, row, &mut self.low);
            mix_rows(high, class, row, &mut self.high);
            mix(&self.low, &self.high, depth_weight, &mut self.mixed);
        } else {
            mix_rows(low, class, row, &mut self.mixed);
        }
    }

    /// Whether no value interpolated between those of the row can reach `bound`, rounding included.
    fn stays_below(&self, bound: f32) -> bool {
        const ROUNDING: f32 = 1e-6; // interpolation adds a few units in the last place, 6e-8 each
        let highest = extreme(&self.mixed, |a, b| a > b);
        highest + highest.abs() * ROUNDING < bound
    }

    /// The row, resampled to the columns of the original grid.
    fn resample(&mut self, columns: &[Tap]) -> &[f32] {
        resample_row(&self.mixed, columns, &mut self.out);
        &self.out
    }
}

/// The extreme value in the given order. Several values are compared at a time, because their order does not matter.
fn extreme(values: &[f32], goes_before: impl Fn(f32, f32) -> bool) -> f32 {
    const LANES: usize = 8;
    let choose = |a: f32, b: f32| if goes_before(b, a) { b } else { a };
    let Some(&first) = values.first() else { return f32::NAN };
    let mut lanes = [first; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane = choose(*lane, value));
    }
    lanes.iter().chain(rest).copied().fold(first, choose)
}

/// Interpolates one class between two rows of a blended slice.
fn mix_rows(slice: &Array3<f32>, class: usize, row: &Tap, out: &mut [f32]) {
    let (_, rows, columns) = slice.dim();
    let values = slice.as_slice().unwrap_or_default(); // our arrays are contiguous
    let row_of = |index: usize| {
        let start = (class * rows + index) * columns;
        &values[start..start + columns]
    };
    mix(row_of(row.low), row_of(row.high), row.weight, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extreme_is_found_wherever_it_is() {
        for length in 1..20 {
            for at in 0..length {
                let mut values = vec![1.0; length];
                values[at] = 2.0;
                assert_eq!(extreme(&values, |a, b| a > b), 2.0);
                assert_eq!(extreme(&values, |a, b| a < b), if length == 1 { 2.0 } else { 1.0 });
            }
        }
    }

    #[test]
    fn only_slices_that_are_still_needed_are_kept() {
        let plan = serde_json::json!({
            "files": { "case_id": "case", "images": [], "labels": null },
            "grid": {
                "original_shape": [6, 5, 60], "axes": [2, 1, 0], "flips": [false, true, false],
                "spacing_mm": [2.0, 1.0, 1.0], "crop": [[0, 60], [0, 5], [0, 6]],
                "world_from_voxel": [[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]],
            },
            "network_shape": [40, 8, 9], "patch": [4, 8, 6], "overlap": [0.5, 0.0, 0.5],
            "slice_interpolation": "linear",
        });
        let plan: CasePlan = serde_json::from_value(plan).unwrap();
        let mut assembler = LabelAssembler::new(&plan, 2);
        let logits = Array4::from_shape_fn((2, 4, 8, 6), |(class, ..)| class as f32);
        for window in 0..plan.windows().len() {
            assembler.push(window, logits.view()).unwrap();
            assert!(assembler.slices.len() <= 4 + 1, "{} slices", assembler.slices.len());
            let [slice, _, _] = plan.windows()[window];
            // With 60 network slices for 40 original ones, all but the last two slices before the window's first are
            // finished.
            assert!(assembler.finished + 3 >= slice * 60 / 40, "{} at {slice}", assembler.finished);
        }
        assert!(assembler.slices.is_empty());
        assert!(assembler.finish().iter().all(|&label| label == 1));
    }
}
