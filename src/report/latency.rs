//! How long the masks of live images took.

use std::collections::VecDeque;

use serde::Serialize;

/// Most images that figures are taken over, the newest.
const MOST_IMAGES: usize = 20_000;

/// Times of an image, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wait {
    /// From its last byte to the start of its segmentation.
    pub waiting: f64,
    /// From there until its mask was sent.
    pub segmenting: f64,
}

/// The times of the newest images.
#[derive(Debug, Default)]
pub struct Latencies {
    provisional: VecDeque<Wait>,
    complete: VecDeque<Wait>,
}

/// Percentiles over images, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Number of images.
    pub images: usize,
    /// Half of the images took at most this long from their last byte until their mask was sent.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// The slowest.
    pub max: f64,
    /// Median of the time until the segmentation began.
    pub waiting_p50: f64,
    /// Median of the time from there until the mask was sent.
    pub segmenting_p50: f64,
}

/// Figures of live segmentation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LiveFigures {
    /// Masks of series that were still arriving.
    pub provisional: Option<Percentiles>,
    /// Masks of complete series.
    pub complete: Option<Percentiles>,
}

impl Latencies {
    /// Adds the times of images.
    pub fn add(&mut self, provisional: bool, waits: impl IntoIterator<Item = Wait>) {
        let list = if provisional { &mut self.provisional } else { &mut self.complete };
        list.extend(waits);
        list.drain(..list.len().saturating_sub(MOST_IMAGES));
    }

    /// The figures; `None` if no image was segmented live.
    pub fn figures(&self) -> Option<LiveFigures> {
        let figures = LiveFigures {
            provisional: percentiles(&self.provisional),
            complete: percentiles(&self.complete),
        };
        (figures != LiveFigures::default()).then_some(figures)
    }
}

fn percentiles(waits: &VecDeque<Wait>) -> Option<Percentiles> {
    if waits.is_empty() {
        return None;
    }
    let sorted = |of: fn(&Wait) -> f64| {
        let mut values: Vec<f64> = waits.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    // The smallest value that at least this part of the values does not exceed.
    let at = |values: &[f64], part: f64| values[(part * values.len() as f64).ceil().max(1.0) as usize - 1];
    let total = sorted(|wait| wait.waiting + wait.segmenting);
    Some(Percentiles {
        images: waits.len(),
        p50: at(&total, 0.5),
        p95: at(&total, 0.95),
        max: at(&total, 1.0),
        waiting_p50: at(&sorted(|wait| wait.waiting), 0.5),
        segmenting_p50: at(&sorted(|wait| wait.segmenting), 0.5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_images_of_each_kind() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.figures(), None);
        let wait = |number: usize| Wait { waiting: 1.0, segmenting: number as f64 };
        latencies.add(true, (1..=100).rev().map(wait));
        latencies.add(false, [wait(7)]);
        let LiveFigures { provisional, complete } = latencies.figures().unwrap();
        let provisional = provisional.unwrap();
        assert_eq!((provisional.images, provisional.p50, provisional.p95), (100, 51.0, 96.0));
        assert_eq!((provisional.max, provisional.waiting_p50), (101.0, 1.0));
        assert_eq!(complete.unwrap().p95, 8.0);
    }
}
