//! Metrics of many cases in a few figures, for `summary.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::case::{CaseMetrics, ClassMetrics, Presence, nan_from_null};

/// What the means do with classes that are absent; stated in the summary.
pub const ABSENT_CLASS_CONVENTION: &str = "a class in neither the truth nor the prediction of a case is left out \
     of all means (counted in `absent`); one in only one of them has Dice 0 and NSD 0 (counted in `one_sided`, and in \
     `missed` where it is in the truth). Its HD95 is infinite and left out of `hd95_mm`, which is over `hd95_cases` \
     cases; in `hd95_mm_one_sided_as_diagonal`, which cannot improve by missing a structure, it counts as the diagonal \
     of the volume. A case without a prediction (`missing`) counts as one whose prediction is empty";

/// Means over cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of cases, including those without a prediction.
    pub cases: usize,
    /// Names of the cases without a prediction; every class of their truth has Dice 0.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Mean over classes of the mean Dice over cases; NaN (`null`) without any.
    #[serde(deserialize_with = "nan_from_null")]
    pub dice_mean: f64,
    /// Tolerance of the normalised surface Dice, mm.
    pub nsd_tolerance_mm: f64,
    /// [`ABSENT_CLASS_CONVENTION`].
    pub absent_class_convention: String,
    /// Each class by its name.
    pub classes: BTreeMap<String, ClassSummary>,
}

/// Means of one class over cases; NaN (`null`) where no case has a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassSummary {
    /// Mean Dice.
    #[serde(deserialize_with = "nan_from_null")]
    pub dice: f64,
    /// Mean HD95 over the cases in which both volumes contain the class, mm.
    #[serde(deserialize_with = "nan_from_null")]
    pub hd95_mm: f64,
    /// Number of these cases.
    #[serde(default)]
    pub hd95_cases: usize,
    /// Mean HD95 over all cases in which a volume contains the class, mm; where only one does, the volume's diagonal
    /// is used.
    #[serde(default = "nan", deserialize_with = "nan_from_null")]
    pub hd95_mm_one_sided_as_diagonal: f64,
    /// Mean normalised surface Dice.
    #[serde(deserialize_with = "nan_from_null")]
    pub nsd: f64,
    /// Cases that have the class in neither volume.
    pub absent: usize,
    /// Cases that have the class in the truth only or in the prediction only.
    pub one_sided: usize,
    /// The number of these cases in which only the truth contains the class: the structure was missed.
    #[serde(default)]
    pub missed: usize,
}

fn nan() -> f64 {
    f64::NAN
}

impl Summary {
    /// Of cases whose normalised surface Dice was taken at `nsd_tolerance_mm`.
    pub fn from_cases(cases: &[CaseMetrics], nsd_tolerance_mm: f64) -> Self {
        let mut by_class: BTreeMap<String, Vec<&ClassMetrics>> = BTreeMap::new();
        for metrics in cases.iter().flat_map(|case| &case.classes) {
            by_class.entry(metrics.class.clone()).or_default().push(metrics);
        }
        let classes: BTreeMap<String, ClassSummary> =
            by_class.into_iter().map(|(class, metrics)| (class, ClassSummary::of(&metrics))).collect();
        Self {
            cases: cases.len(),
            missing: Vec::new(),
            dice_mean: finite_mean(classes.values().map(|class| class.dice)),
            nsd_tolerance_mm,
            absent_class_convention: ABSENT_CLASS_CONVENTION.into(),
            classes,
        }
    }
}

impl ClassSummary {
    fn of(metrics: &[&ClassMetrics]) -> Self {
        let mean =
            |figure: fn(&ClassMetrics) -> f64| finite_mean(metrics.iter().map(|metrics| figure(metrics)));
        let count = |presence| metrics.iter().filter(|metrics| metrics.presence == presence).count();
        let missed = count(Presence::Missed);
        Self {
            dice: mean(|metrics| metrics.dice),
            hd95_mm: mean(|metrics| metrics.hd95_mm),
            hd95_cases: metrics.iter().filter(|metrics| metrics.hd95_mm.is_finite()).count(),
            hd95_mm_one_sided_as_diagonal: mean(ClassMetrics::hd95_or_diagonal_mm),
            nsd: mean(|metrics| metrics.nsd),
            absent: count(Presence::Neither),
            one_sided: missed + count(Presence::Invented),
            missed,
        }
    }
}

/// Mean of the finite figures; NaN without any.
fn finite_mean(figures: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = figures
        .filter(|figure| figure.is_finite())
        .fold((0.0, 0.0), |(sum, count), figure| (sum + figure, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_leave_out_what_is_not_finite_and_count_it() {
        let class = |class: &str, dice, hd95_mm, nsd, presence| ClassMetrics {
            dice,
            hd95_mm,
            nsd,
            presence,
            diagonal_mm: 100.0,
            ..ClassMetrics::undefined(class)
        };
        let case = |case_id: &str, classes| CaseMetrics { case_id: case_id.into(), classes };
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        let cases = [
            case(
                "1",
                vec![class("a", 0.8, 2.0, 0.9, Presence::Both), class("b", nan, nan, nan, Presence::Neither)],
            ),
            case(
                "2",
                vec![
                    class("a", 0.0, infinite, 0.0, Presence::Missed),
                    class("b", 0.6, 4.0, 0.7, Presence::Both),
                ],
            ),
            case("3", vec![class("b", 0.0, infinite, 0.0, Presence::Invented)]),
        ];
        let summary = Summary::from_cases(&cases, 1.0);
        let a = ClassSummary {
            dice: 0.4,
            hd95_mm: 2.0,
            hd95_cases: 1,
            hd95_mm_one_sided_as_diagonal: 51.0,
            nsd: 0.45,
            absent: 0,
            one_sided: 1,
            missed: 1,
        };
        let b = ClassSummary {
            dice: 0.3,
            hd95_mm: 4.0,
            hd95_cases: 1,
            hd95_mm_one_sided_as_diagonal: 52.0,
            nsd: 0.35,
            absent: 1,
            one_sided: 1,
            missed: 0,
        };
        assert_eq!(summary.classes, BTreeMap::from([("a".into(), a), ("b".into(), b)]));
        assert_eq!((summary.cases, summary.dice_mean), (3, 0.35));
    }

    #[test]
    fn without_cases_the_mean_is_null() {
        let json = serde_json::to_value(Summary::from_cases(&[], 1.0)).expect("JSON");
        assert!(json["dice_mean"].is_null());
    }
}
