//! Metrics of one case: a predicted label volume against the true one, class by class.

use ndarray::{ArrayView3, Zip, s};
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::surface::SurfaceDistances;

/// Why two label volumes cannot be compared.
#[derive(Debug, Error, PartialEq)]
pub enum MetricsError {
    /// The volumes are not on one grid.
    #[error("the truth has shape {truth:?}, the prediction {prediction:?}")]
    Shape { truth: Vec<usize>, prediction: Vec<usize> },
    /// A spacing is not a positive number.
    #[error("spacing {0:?} mm is not positive")]
    Spacing([f64; 3]),
    /// The tolerance is negative or not a number.
    #[error("tolerance {0} mm is not 0 or more")]
    Tolerance(f64),
    /// A label stands for no class.
    #[error("the {volume} has label {label}, but there are {classes} classes (0 is the background)")]
    UnknownLabel { volume: &'static str, label: u8, classes: usize },
}

/// Metrics of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseMetrics {
    /// Name of the case.
    pub case_id: String,
    /// Its classes without the background, in the model's order.
    pub classes: Vec<ClassMetrics>,
}

/// Metrics of one class in one case. JSON has `null` for what is not a finite number.
///
/// | class is in | Dice | HD95 | NSD |
/// |---|---|---|---|
/// | neither volume | NaN | NaN | NaN |
/// | one volume only | 0 | infinite | 0 |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Name of the class.
    pub class: String,
    /// Dice coefficient, 0 to 1.
    #[serde(deserialize_with = "nan_from_null")]
    pub dice: f64,
    /// 95th percentile Hausdorff distance, mm.
    #[serde(deserialize_with = "nan_from_null")]
    pub hd95_mm: f64,
    /// Normalised surface Dice at the tolerance asked for, 0 to 1.
    #[serde(deserialize_with = "nan_from_null")]
    pub nsd: f64,
    /// Which of the two volumes contain the class.
    #[serde(default)]
    pub presence: Presence,
    /// Diagonal of the volume, mm, which is longer than any distance in it.
    #[serde(default = "nan", deserialize_with = "nan_from_null")]
    pub diagonal_mm: f64,
}

/// Which of two volumes contain a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Neither, or nothing was compared.
    #[default]
    Neither,
    /// Only the truth: the structure was missed.
    Missed,
    /// Only the prediction.
    Invented,
    /// Both.
    Both,
}

impl ClassMetrics {
    /// The metrics of a class for which nothing was compared.
    pub fn undefined(class: &str) -> Self {
        let [dice, hd95_mm, nsd, diagonal_mm] = [f64::NAN; 4];
        Self { class: class.into(), dice, hd95_mm, nsd, presence: Presence::Neither, diagonal_mm }
    }

    /// HD95; the diagonal of the volume if only one volume contains the class; NaN if neither does.
    pub fn hd95_or_diagonal_mm(&self) -> f64 {
        match self.presence {
            Presence::Missed | Presence::Invented => self.diagonal_mm,
            Presence::Neither | Presence::Both => self.hd95_mm,
        }
    }
}

fn nan() -> f64 {
    f64::NAN
}

/// Reads `null` as NaN.
pub(super) fn nan_from_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Compares two label volumes `[z, y, x]` with voxels of `spacing_mm` `[z, y, x]`. Label i stands for
/// `classes[i]`; class 0 is the background and left out of the result.
///
/// # Errors
/// [`MetricsError::Shape`], [`MetricsError::Spacing`], [`MetricsError::Tolerance`] and
/// [`MetricsError::UnknownLabel`].
pub fn evaluate_case(
    truth: ArrayView3<'_, u8>,
    prediction: ArrayView3<'_, u8>,
    spacing_mm: [f64; 3],
    classes: &[String],
    tolerance_mm: f64,
) -> Result<Vec<ClassMetrics>, MetricsError> {
    check(truth, prediction, spacing_mm, tolerance_mm)?;
    let (depth, height, width) = truth.dim();
    let sides_mm =
        [depth, height, width].into_iter().zip(spacing_mm).map(|(side, mm)| (side as f64 * mm).powi(2));
    let diagonal_mm = sides_mm.sum::<f64>().sqrt();
    let overlaps = overlaps(truth, prediction);
    check_labels(&overlaps, classes.len())?;
    let of_class = |(label, overlap): (usize, &Overlap)| {
        let presence = match (overlap.truth, overlap.prediction) {
            (0, 0) => Presence::Neither,
            (_, 0) => Presence::Missed,
            (0, _) => Presence::Invented,
            _ => Presence::Both,
        };
        let (dice, hd95_mm, nsd) = match presence {
            Presence::Neither => (f64::NAN, f64::NAN, f64::NAN),
            Presence::Missed | Presence::Invented => (0.0, f64::INFINITY, 0.0),
            Presence::Both => {
                let [z, y, x] = overlap.bounds.map(|[first, last]| first..=last);
                let mask = |labels: ArrayView3<'_, u8>| {
                    labels
                        .slice(s![z.clone(), y.clone(), x.clone()])
                        .mapv(|voxel| usize::from(voxel) == label)
                };
                let distances =
                    SurfaceDistances::new(mask(truth).view(), mask(prediction).view(), spacing_mm);
                let dice = 2.0 * overlap.both as f64 / (overlap.truth + overlap.prediction) as f64;
                (dice, distances.hd95_mm(), distances.nsd(tolerance_mm))
            }
        };
        ClassMetrics { class: classes[label].clone(), dice, hd95_mm, nsd, presence, diagonal_mm }
    };
    // One class after the other: the distances of one that fills the volume take eight times its bytes.
    Ok(overlaps.iter().enumerate().take(classes.len()).skip(1).map(of_class).collect())
}

fn check(
    truth: ArrayView3<'_, u8>,
    prediction: ArrayView3<'_, u8>,
    spacing_mm: [f64; 3],
    tolerance_mm: f64,
) -> Result<(), MetricsError> {
    if truth.dim() != prediction.dim() {
        let (truth, prediction) = (truth.shape().to_vec(), prediction.shape().to_vec());
        return Err(MetricsError::Shape { truth, prediction });
    }
    if !spacing_mm.iter().all(|&mm| mm > 0.0 && mm.is_finite()) {
        return Err(MetricsError::Spacing(spacing_mm));
    }
    if tolerance_mm.is_nan() || tolerance_mm < 0.0 {
        return Err(MetricsError::Tolerance(tolerance_mm));
    }
    Ok(())
}

/// No volume may have a label that stands for no class.
fn check_labels(overlaps: &[Overlap], classes: usize) -> Result<(), MetricsError> {
    for (label, overlap) in overlaps.iter().enumerate().skip(classes) {
        for (volume, count) in [("truth", overlap.truth), ("prediction", overlap.prediction)] {
            if count > 0 {
                return Err(MetricsError::UnknownLabel { volume, label: label as u8, classes });
            }
        }
    }
    Ok(())
}

/// Labels there can be.
const LABELS: usize = 256;

/// Voxels of a class, and the box that holds them all.
#[derive(Clone)]
struct Overlap {
    truth: u64,
    prediction: u64,
    both: u64,
    /// First and last index along `[z, y, x]`.
    bounds: [[usize; 2]; 3],
}

impl Overlap {
    const NONE: Self = Self { truth: 0, prediction: 0, both: 0, bounds: [[usize::MAX, 0]; 3] };

    fn add(&mut self, index: [usize; 3], in_truth: bool, in_prediction: bool) {
        self.truth += u64::from(in_truth);
        self.prediction += u64::from(in_prediction);
        self.both += u64::from(in_truth && in_prediction);
        for ([first, last], index) in self.bounds.iter_mut().zip(index) {
            (*first, *last) = (index.min(*first), index.max(*last));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.truth += other.truth;
        self.prediction += other.prediction;
        self.both += other.both;
        for (bounds, other) in self.bounds.iter_mut().zip(other.bounds) {
            *bounds = [bounds[0].min(other[0]), bounds[1].max(other[1])];
        }
    }
}

/// By label; voxels that are background in both volumes are not counted.
fn overlaps(truth: ArrayView3<'_, u8>, prediction: ArrayView3<'_, u8>) -> Vec<Overlap> {
    let planes: Vec<_> = truth.outer_iter().zip(prediction.outer_iter()).enumerate().collect();
    let none = || vec![Overlap::NONE; LABELS];
    let of_planes = planes.into_par_iter().fold(none, |mut overlaps, (z, (truth, prediction))| {
        Zip::indexed(truth).and(prediction).for_each(|(y, x), &true_label, &label| {
            if true_label == label {
                if label != 0 {
                    overlaps[usize::from(label)].add([z, y, x], true, true);
                }
            } else {
                overlaps[usize::from(true_label)].add([z, y, x], true, false);
                overlaps[usize::from(label)].add([z, y, x], false, true);
            }
        });
        overlaps
    });
    of_planes.reduce(none, |mut overlaps, others| {
        overlaps.iter_mut().zip(&others).for_each(|(overlap, other)| overlap.merge(other));
        overlaps
    })
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    fn classes() -> Vec<String> {
        ["background", "a", "b", "c"].map(String::from).to_vec()
    }

    #[test]
    fn absent_classes_are_nan_and_one_sided_ones_are_zero() {
        let truth = Array3::from_shape_fn((3, 4, 5), |(z, ..)| u8::from(z == 1));
        let prediction = truth.mapv(|label| 2 * label);
        let metrics =
            evaluate_case(truth.view(), prediction.view(), [1.0; 3], &classes(), 1.0).expect("metrics");
        let [a, b, c] = &metrics[..] else { panic!("three classes") };
        assert_eq!((a.dice, a.hd95_mm, a.nsd), (0.0, f64::INFINITY, 0.0));
        assert_eq!((b.dice, b.hd95_mm, b.nsd), (0.0, f64::INFINITY, 0.0));
        assert_eq!(
            (a.presence, b.presence, c.presence),
            (Presence::Missed, Presence::Invented, Presence::Neither)
        );
        assert_eq!((a.hd95_or_diagonal_mm(), b.hd95_or_diagonal_mm()), (50f64.sqrt(), 50f64.sqrt()));
        assert!(c.dice.is_nan() && c.hd95_mm.is_nan() && c.nsd.is_nan());
        let json = serde_json::to_string(c).expect("JSON");
        assert_eq!(
            json,
            r#"{"class":"c","dice":null,"hd95_mm":null,"nsd":null,"presence":"neither","diagonal_mm":7.0710678118654755}"#
        );
        assert!(serde_json::from_str::<ClassMetrics>(&json).expect("metrics").dice.is_nan());
    }

    #[test]
    fn volumes_that_cannot_be_compared_are_refused() {
        let volume = |label: u8| Array3::from_elem((2, 2, 2), label);
        let (ok, other) = (volume(3), Array3::zeros((2, 2, 3)));
        let error = |truth: &Array3<u8>, prediction: &Array3<u8>, spacing_mm, tolerance_mm| {
            let result = evaluate_case(truth.view(), prediction.view(), spacing_mm, &classes(), tolerance_mm);
            result.expect_err("refused").to_string()
        };
        assert!(error(&ok, &other, [1.0; 3], 1.0).contains("[2, 2, 3]"));
        assert!(error(&ok, &volume(9), [1.0; 3], 1.0).contains("the prediction has label 9"));
        assert!(error(&ok, &ok, [1.0, 0.0, 1.0], 1.0).contains("spacing"));
        assert!(error(&ok, &ok, [1.0; 3], f64::NAN).contains("tolerance"));
    }
}
