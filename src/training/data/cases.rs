//! Training cases on the network's grid, kept in memory as long as they fit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::{Array3, Array4, Axis, s};

use super::labels::LabelRules;
use crate::bundle::{BundleConfig, Patch, Plane};
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;
use crate::volume::{CaseFiles, CasePlan, PlanOptions, PreparedCase, Regrid};

/// Most voxels of a class that are stored, spread over all of them (as many as in nnU-Net).
const MOST_VOXELS: usize = 10_000;

/// A case, resampled and normalised as a whole.
#[derive(Debug)]
pub struct TrainingCase {
    /// Name of the case.
    pub case_id: String,
    /// `[M, slice, row, column]`.
    pub images: Array4<f32>,
    /// `[slice, row, column]`; ignored voxels have the label [`IGNORED`](crate::training::IGNORED).
    pub labels: Array3<u8>,
    /// Some voxels `[slice, row, column]` of each class in the case, without the background.
    pub voxels: Vec<Vec<[u16; 3]>>,
}

impl TrainingCase {
    /// Reads a case, which must have labels, and resamples it to the grid of the network.
    ///
    /// # Errors
    /// [`TrainingError::Volume`] and [`TrainingError::Label`].
    pub fn open(
        files: &CaseFiles,
        config: &BundleConfig,
        regrid: Regrid,
        rules: &LabelRules,
    ) -> Result<Self, TrainingError> {
        let options = PlanOptions { roi_mm: None, regrid };
        let [slices, rows, columns] = CasePlan::with_options(files, config, &options)?.network_shape;
        let plane = match config.patch.plane {
            Plane::WholeSlice(side) => Plane::WholeSlice(side),
            Plane::Window(_) => Plane::Window([rows, columns]),
        };
        // A single window that covers the whole case.
        let patch = Patch { depth: slices, plane, mirror: [false; 3], ..config.patch.clone() };
        let whole = BundleConfig { patch, ..config.clone() };
        let case = PreparedCase::open(&CasePlan::with_options(files, &whole, &options)?, &whole)?;
        let images = case.window(0).slice_move(s![.., .., ..rows, ..columns]);
        let path = files.labels.as_ref().map(|labels| labels.path().to_path_buf()).unwrap_or_default();
        let Some(labels) = case.label_window(0) else {
            let (folder, case) = (path, files.case_id.clone());
            return Err(crate::volume::VolumeError::MissingLabels { folder, case }.into());
        };
        let mut labels = labels.slice_move(s![.., ..rows, ..columns]);
        let classes = config.classes.len();
        rules.apply(&mut labels).map_err(|label| TrainingError::Label { path, label, classes })?;
        let voxels = voxels_by_class(&labels, classes);
        Ok(Self { case_id: files.case_id.clone(), images, labels, voxels })
    }

    /// Slices, rows and columns.
    pub fn shape(&self) -> [usize; 3] {
        [0, 1, 2].map(|axis| self.labels.len_of(Axis(axis)))
    }

    fn bytes(&self) -> usize {
        let voxels: usize = self.voxels.iter().map(Vec::len).sum();
        self.images.len() * size_of::<f32>() + self.labels.len() + voxels * size_of::<[u16; 3]>()
    }
}

fn voxels_by_class(labels: &Array3<u8>, classes: usize) -> Vec<Vec<[u16; 3]>> {
    let mut counts = vec![0usize; classes];
    let is_class = |label: u8| usize::from(label) < classes;
    labels.iter().filter(|label| is_class(**label)).for_each(|&label| counts[usize::from(label)] += 1);
    let mut seen = vec![0usize; classes];
    let mut voxels = vec![Vec::new(); classes];
    let foreground = labels.indexed_iter().filter(|(_, label)| **label > 0 && is_class(**label));
    for ((z, y, x), &label) in foreground {
        let class = usize::from(label);
        if seen[class].is_multiple_of(counts[class].div_ceil(MOST_VOXELS)) {
            voxels[class].push([z, y, x].map(|index| index as u16)); // sides are at most 65536 (see CasePlan)
        }
        seen[class] += 1;
    }
    voxels.retain(|voxels| !voxels.is_empty());
    voxels
}

/// The cases of a run, shared by several threads.
#[derive(Debug)]
pub struct CaseStore {
    files: Vec<CaseFiles>,
    config: BundleConfig,
    budget: usize,
    regrid: Regrid,
    rules: LabelRules,
    kept: Mutex<Kept>,
}

/// Cases in memory.
#[derive(Debug, Default)]
struct Kept {
    cases: BTreeMap<usize, Arc<TrainingCase>>,
    /// From the least recently used case on.
    order: VecDeque<usize>,
    bytes: usize,
}

impl CaseStore {
    /// Keeps at most `budget` bytes of cases that are not in use.
    pub fn new(files: Vec<CaseFiles>, config: BundleConfig, budget: usize) -> Self {
        let values = (0..=u8::MAX).take(config.classes.len());
        let rules = LabelRules::new(values, []);
        Self { files, config, budget, regrid: Regrid::default(), rules, kept: Mutex::default() }
    }

    /// The cases of a training configuration.
    pub fn of_config(config: &TrainingConfig, files: Vec<CaseFiles>) -> Self {
        Self {
            regrid: config.data.regrid(),
            rules: LabelRules::of_config(config),
            ..Self::new(files, config.model.without_files(), config.data.memory_mib << 20)
        }
    }

    /// Sets how labels on other grids are treated.
    pub fn regrid(mut self, regrid: Regrid) -> Self {
        self.regrid = regrid;
        self
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Case number `index`, from memory or from disk.
    ///
    /// # Errors
    /// Those of [`TrainingCase::open`].
    pub fn get(&self, index: usize) -> Result<Arc<TrainingCase>, TrainingError> {
        if let Some(case) = self.lock().get(index) {
            return Ok(case);
        }
        // Read without holding the lock: two threads that need the same case at once both read it.
        let case = Arc::new(TrainingCase::open(&self.files[index], &self.config, self.regrid, &self.rules)?);
        self.lock().insert(index, &case, self.budget);
        Ok(case)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, index: usize) -> Option<Arc<TrainingCase>> {
        let case = self.cases.get(&index)?.clone();
        self.order.retain(|&known| known != index);
        self.order.push_back(index);
        Some(case)
    }

    fn insert(&mut self, index: usize, case: &Arc<TrainingCase>, budget: usize) {
        if self.cases.insert(index, case.clone()).is_none() {
            self.bytes += case.bytes();
            self.order.push_back(index);
        }
        while self.bytes > budget
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.cases.remove(&oldest).map_or(0, |case| case.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(side: usize) -> Arc<TrainingCase> {
        let labels = Array3::from_shape_fn((side, side, side), |(z, ..)| (z % 3) as u8);
        let voxels = voxels_by_class(&labels, 4);
        let images = Array4::zeros((1, side, side, side));
        Arc::new(TrainingCase { case_id: "case".into(), images, labels, voxels })
    }

    #[test]
    fn every_class_that_is_there_is_remembered_within_bounds() {
        let case = case(60);
        assert_eq!(case.voxels.len(), 2, "no background, no absent class");
        for (voxels, label) in case.voxels.iter().zip(1..) {
            assert!((MOST_VOXELS / 2..=MOST_VOXELS).contains(&voxels.len()));
            assert!(voxels.iter().all(|voxel| case.labels[voxel.map(usize::from)] == label));
        }
    }

    #[test]
    fn ignored_voxels_are_of_no_class() {
        let ignored = crate::training::IGNORED;
        let labels = Array3::from_shape_fn((4, 4, 4), |(z, ..)| [0, 1, 2, ignored][z]);
        let voxels = voxels_by_class(&labels, 3);
        assert_eq!(voxels.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16]);
        assert!(voxels.iter().flatten().all(|voxel| labels[voxel.map(usize::from)] != ignored));
    }

    #[test]
    fn memory_holds_what_was_used_last() {
        let (one, mut kept) = (case(10), Kept::default());
        let budget = 2 * one.bytes();
        kept.insert(0, &one, budget);
        kept.insert(1, &one, budget);
        assert!(kept.get(0).is_some());
        kept.insert(2, &one, budget);
        assert!(kept.get(1).is_none() && kept.get(0).is_some() && kept.get(2).is_some());
        assert_eq!(kept.bytes, budget);
        kept.insert(3, &case(40), budget);
        assert_eq!((kept.bytes, kept.cases.len()), (0, 0), "too large to keep");
    }
}
