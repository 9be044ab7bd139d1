//! The report's section for one case.

use std::ops::Range;

use super::Montage;
use crate::metrics::ClassMetrics;

/// What the page shows of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseSection {
    /// Name of the case.
    pub case_id: String,
    /// The classes 1, 2, … in order, without the background.
    pub classes: Vec<ClassRow>,
    /// Pictures; absent = none.
    pub montage: Option<Montage>,
}

/// What the two volumes of a section are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// The one at the left of the pictures, where there is one.
    pub left: &'static str,
    /// The other one.
    pub right: &'static str,
}

impl Sides {
    /// The truth, and what the model makes of it.
    pub const TRUTH: Self = Self { left: "truth", right: "prediction" };
    /// Two results of equal standing.
    pub const RESULTS: Self = Self { left: "A", right: "B" };
}

/// One class of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassRow {
    /// Name and figures; NaN without truth.
    pub metrics: ClassMetrics,
    /// Volume of the prediction, ml.
    pub volume_ml: f64,
    /// Volume of the truth, ml, where there is one.
    pub truth_ml: Option<f64>,
}

impl CaseSection {
    pub(super) fn has_truth(&self) -> bool {
        self.classes.iter().any(|class| class.truth_ml.is_some())
    }

    pub(super) fn dice_mean(&self) -> f64 {
        let dice: Vec<f64> =
            self.classes.iter().map(|class| class.metrics.dice).filter(|dice| dice.is_finite()).collect();
        dice.iter().sum::<f64>() / dice.len() as f64
    }
}

/// A case with its finished section.
#[derive(Debug, Clone)]
pub(super) struct RenderedCase {
    pub case_id: String,
    pub dice_mean: f64,
    /// Where its HTML is in `sections`, bytes.
    pub html: Range<u64>,
}
