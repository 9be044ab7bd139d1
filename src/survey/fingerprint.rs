//! Statistics over all cases of a dataset, from which a configuration can be chosen.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Expected;
use super::case::{CaseFacts, Examined};

/// Values up to this are Hounsfield units of air, which do not occur in MR.
const AIR_HU: f32 = -500.0;

/// The dataset's statistics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fingerprint {
    /// Number of cases that can be read.
    pub cases: usize,
    /// Number of these that have labels.
    pub with_labels: usize,
    /// Number of voxels along the stored axes.
    pub shape: [Range; 3],
    /// Voxel sizes along the stored axes, mm.
    pub spacing_mm: [Range; 3],
    /// Longest side of a voxel over its shortest.
    pub anisotropy: Range,
    /// Number of cases by orientation of the stored axes.
    pub orientations: BTreeMap<String, usize>,
    /// Each channel.
    pub channels: Vec<Channel>,
    /// Each class by its value in label files, and each value that is not a class.
    pub classes: Vec<Class>,
}

/// Smallest, median and largest value over the cases; 0 without cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Range {
    /// The smallest.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

/// Intensities of a channel over all cases. Percentiles, mean and standard deviation are computed from 10,000 voxels
/// per case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Channel {
    /// Smallest value.
    pub min: f64,
    /// 0.5th percentile.
    pub percentile_0_5: f64,
    /// Median.
    pub median: f64,
    /// 99.5th percentile.
    pub percentile_99_5: f64,
    /// Largest value.
    pub max: f64,
    /// `CT` if there are Hounsfield units of air, else `MR`, which stands for all other modalities.
    pub looks_like: &'static str,
    /// The intensities within the classes, for `normalisation: clip`.
    pub within_classes: Option<Within>,
}

/// Intensities within the classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Within {
    /// 0.5th percentile.
    pub percentile_0_5: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// 99.5th percentile.
    pub percentile_99_5: f64,
}

/// A class, or a value that is not a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Its value in label files.
    pub value: u8,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether its voxels are ignored.
    pub ignored: bool,
    /// Number of its voxels in all cases.
    pub voxels: u64,
    /// Number of cases with the class.
    pub cases: usize,
}

/// A channel for tests, with -100 to 200 within the classes.
#[cfg(test)]
pub(crate) fn channel(looks_like: &'static str) -> Channel {
    let within = Within { percentile_0_5: -100.0, mean: 50.0, std: 40.0, percentile_99_5: 200.0 };
    let [min, percentile_0_5, median, percentile_99_5, max] = [-1000.0, -900.0, 0.0, 900.0, 1000.0];
    Channel { min, percentile_0_5, median, percentile_99_5, max, looks_like, within_classes: Some(within) }
}

impl Fingerprint {
    pub(super) fn of(examined: &[Examined], expected: &Expected) -> Self {
        let facts: Vec<&CaseFacts> = examined.iter().filter_map(|case| case.facts.as_ref()).collect();
        let range = |of: &dyn Fn(&CaseFacts) -> f64| Range::of(facts.iter().map(|case| of(case)).collect());
        let mut orientations = BTreeMap::new();
        facts.iter().for_each(|case| *orientations.entry(case.orientation.clone()).or_default() += 1);
        let channels = facts.iter().map(|case| case.channels.len()).max().unwrap_or(0);
        Self {
            cases: facts.len(),
            with_labels: facts.iter().filter(|case| case.labels.is_some()).count(),
            shape: [0, 1, 2].map(|axis| range(&|case| case.shape[axis] as f64)),
            spacing_mm: [0, 1, 2].map(|axis| range(&|case| case.spacing_mm[axis])),
            anisotropy: range(&|case| {
                let [low, high] = [f64::min, f64::max].map(|of| case.spacing_mm.into_iter().reduce(of));
                high.unwrap_or(1.0) / low.unwrap_or(1.0)
            }),
            orientations,
            channels: (0..channels).filter_map(|index| Channel::of(examined, index)).collect(),
            classes: classes(&facts, expected),
        }
    }
}

impl Range {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        match (values.first(), values.last()) {
            (Some(&min), Some(&max)) => Self { min, median: percentile(&values, 50.0), max },
            _ => Self::default(),
        }
    }
}

impl Channel {
    fn of(examined: &[Examined], index: usize) -> Option<Self> {
        let sample = sorted(examined.iter().filter_map(|case| case.sample.get(index)));
        if sample.is_empty() {
            return None;
        }
        let channels = || examined.iter().filter_map(|case| case.facts.as_ref()?.channels.get(index));
        let min = channels().fold(f32::INFINITY, |min, channel| min.min(channel.min));
        let max = channels().fold(f32::NEG_INFINITY, |max, channel| max.max(channel.max));
        Some(Self {
            min: min.into(),
            percentile_0_5: percentile(&sample, 0.5),
            median: percentile(&sample, 50.0),
            percentile_99_5: percentile(&sample, 99.5),
            max: max.into(),
            looks_like: if min <= AIR_HU { "CT" } else { "MR" },
            within_classes: Within::of(&sorted(
                examined.iter().filter_map(|case| case.foreground.get(index)),
            )),
        })
    }
}

impl Within {
    fn of(sorted: &[f64]) -> Option<Self> {
        if sorted.is_empty() {
            return None;
        }
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
        let [percentile_0_5, percentile_99_5] = [0.5, 99.5].map(|percent| percentile(sorted, percent));
        Some(Self { percentile_0_5, mean, std: variance.sqrt(), percentile_99_5 })
    }
}

fn classes(facts: &[&CaseFacts], expected: &Expected) -> Vec<Class> {
    let mut classes: BTreeMap<u8, Class> = BTreeMap::new();
    let class = |value: u8| Class {
        value,
        name: expected.classes.get(&value).cloned(),
        ignored: expected.ignore.contains(value),
        voxels: 0,
        cases: 0,
    };
    for &value in expected.classes.keys() {
        classes.insert(value, class(value));
    }
    for (&value, &voxels) in facts.iter().filter_map(|case| case.labels.as_ref()).flatten() {
        let class = classes.entry(value).or_insert_with(|| class(value));
        class.voxels += voxels;
        class.cases += 1;
    }
    classes.into_values().collect()
}

fn sorted<'a>(values: impl Iterator<Item = &'a Vec<f32>>) -> Vec<f64> {
    let mut values: Vec<f64> = values.flatten().map(|&value| value.into()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The percentile of sorted values with numpy's default method (linear between the two nearest ranks).
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = percent / 100.0 * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_equal_numpy() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&values, 50.0), 2.5);
        assert!((percentile(&values, 90.0) - 3.7).abs() < 1e-12);
        let range = Range::of(vec![3.0, 1.0, 8.0]);
        assert_eq!(range, Range { min: 1.0, median: 3.0, max: 8.0 });
        assert_eq!(Range::of(vec![]), Range::default());
    }

    #[test]
    fn figures_within_classes_are_numpys() {
        let within = Within::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        assert_eq!((within.mean, within.std), (3.0, 3.5f64.sqrt()));
        assert_eq!(Within::of(&[]), None);
    }
}
