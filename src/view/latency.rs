//! How long masks take on their way to a page.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Number of newest times of which percentiles are given.
const NEWEST: usize = 1024;

/// The newest of some times.
#[derive(Debug, Default)]
pub struct Times(VecDeque<f64>);

/// Percentiles of times, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: usize,
    pub median: f64,
    pub p95: f64,
    pub max: f64,
}

/// The parts of the way.
#[derive(Debug, Default)]
pub struct Latency {
    /// From the last byte of an image until its provisional mask was sent.
    pub mask: Times,
    /// From the arrival of a mask at this node until a page's connection has taken it.
    pub page: Times,
}

/// `Latency` in numbers; `None` before the first mask.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    pub mask_secs: Option<Percentiles>,
    pub page_secs: Option<Percentiles>,
}

impl Times {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        if self.0.len() == NEWEST {
            self.0.pop_front();
        }
        self.0.push_back(time.as_secs_f64());
    }

    /// Percentiles by nearest rank.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |fraction: f64| {
            let rank = (sorted.len() as f64 * fraction).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied()
        };
        Some(Percentiles { count: sorted.len(), median: rank(0.5)?, p95: rank(0.95)?, max: rank(1.0)? })
    }
}

impl Latency {
    /// In numbers.
    pub fn summary(&self) -> LatencySummary {
        LatencySummary { mask_secs: self.mask.percentiles(), page_secs: self.page.percentiles() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_newest_times() {
        let mut times = Times::default();
        assert_eq!(times.percentiles(), None);
        for millis in (1..=100u64).rev() {
            times.add(Duration::from_millis(millis));
        }
        let expected = Percentiles { count: 100, median: 0.050, p95: 0.095, max: 0.1 };
        assert_eq!(times.percentiles(), Some(expected));
        for _ in 0..NEWEST {
            times.add(Duration::from_secs(2));
        }
        assert_eq!(times.percentiles(), Some(Percentiles { count: NEWEST, median: 2.0, p95: 2.0, max: 2.0 }));
    }
}
