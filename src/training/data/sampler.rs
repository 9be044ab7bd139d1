//! The stream of windows. For a given seed, window number `i` is always the same, whichever thread prepares it and
//! when.

use ndarray::{Array3, Array4};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::cases::{CaseStore, TrainingCase};
use crate::training::augment::AugmentationConfig;
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;
use crate::volume::CaseFiles;

/// Odd constant that decorrelates seeds (SplitMix64's increment).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A window for training.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its case.
    pub case_id: String,
    /// `[M, D, H, W]`.
    pub images: Array4<f32>,
    /// `[D, H, W]`; ignored voxels have the label [`IGNORED`](crate::training::IGNORED).
    pub labels: Array3<u8>,
}

/// Draws windows from cases.
///
/// Each pass uses every case once, in a new order. A window lies anywhere in the case; a fraction of the windows is
/// centred on a voxel of a class (nnU-Net's `_probabilistic_oversampling`: each class of the case is equally
/// likely). Along an axis on which the case is smaller than the window, the case lies anywhere in the window, padded
/// with zeros.
#[derive(Debug)]
pub struct Sampler {
    store: CaseStore,
    patch: [usize; 3],
    foreground: f64,
    augmentation: AugmentationConfig,
    seed: u64,
}

impl Sampler {
    /// Windows of `patch` voxels, a fraction `foreground` of them centred on a class.
    pub fn new(
        store: CaseStore,
        patch: [usize; 3],
        foreground: f64,
        augmentation: AugmentationConfig,
        seed: u64,
    ) -> Self {
        Self { store, patch, foreground, augmentation, seed }
    }

    /// The windows that a configuration draws from its training cases.
    pub fn of_config(config: &TrainingConfig, training: Vec<CaseFiles>) -> Self {
        let store = CaseStore::of_config(config, training);
        let augmentation = config.augmentation.clone();
        Self::new(store, config.patch(), config.data.foreground, augmentation, config.seed)
    }

    /// Window number `index`.
    ///
    /// # Errors
    /// A case that cannot be read.
    pub fn sample(&self, index: u64) -> Result<Sample, TrainingError> {
        let mut rng = Pcg64::seed_from_u64(self.seed.wrapping_add(1).wrapping_mul(SPREAD) ^ index);
        let case = self.store.get(self.case_of(index))?;
        let start = self.start(&case, &mut rng);
        let placement = self.augmentation.place(start, self.patch, &mut rng);
        let (mut images, mut labels) = placement.cut(case.images.view(), case.labels.view());
        self.augmentation.change(&mut images, &mut labels, &mut rng);
        Ok(Sample { case_id: case.case_id.clone(), images, labels })
    }

    fn case_of(&self, index: u64) -> usize {
        let count = self.store.len() as u64;
        let mut order: Vec<usize> = (0..self.store.len()).collect();
        order.shuffle(&mut Pcg64::seed_from_u64(self.seed.wrapping_mul(SPREAD) ^ (index / count)));
        order[(index % count) as usize]
    }

    fn start(&self, case: &TrainingCase, rng: &mut Pcg64) -> [isize; 3] {
        let shape = case.shape();
        let centre = match rng.random_bool(self.foreground) && !case.voxels.is_empty() {
            true => {
                let voxels = &case.voxels[rng.random_range(0..case.voxels.len())];
                Some(voxels[rng.random_range(0..voxels.len())])
            }
            false => None,
        };
        std::array::from_fn(|axis| {
            let room = shape[axis] as isize - self.patch[axis] as isize;
            let anywhere = room.min(0) + rng.random_range(0..=room.unsigned_abs() as u64) as isize;
            match centre {
                Some(centre) if room > 0 => {
                    (centre[axis] as isize - self.patch[axis] as isize / 2).clamp(0, room)
                }
                _ => anywhere,
            }
        })
    }
}
