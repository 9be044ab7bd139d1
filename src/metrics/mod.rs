//! Agreement of a label volume with the truth: Dice, 95th percentile Hausdorff distance (HD95) and normalised
//! surface Dice (NSD) for each class. The figures equal those of DeepMind's `surface-distance` 0.1 (Nikolov
//! et al. 2018, "Deep learning to achieve clinically applicable segmentation of head and neck anatomy").

mod case;
mod summary;
mod surface;
mod surfel;

pub use case::{CaseMetrics, ClassMetrics, MetricsError, Presence, evaluate_case};
pub use summary::{ABSENT_CLASS_CONVENTION, ClassSummary, Summary};
pub use surface::{SurfaceDistances, Surfel};
pub use surfel::surfel_areas;

/// Tolerance of the normalised surface Dice where the user names none, mm.
pub const DEFAULT_TOLERANCE_MM: f64 = 1.0;
