//! How long the masks of live images took.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;

/// Most images that figures are taken over, the newest.
const MOST_IMAGES: usize = 20_000;
/// From the last byte of an image to its arrival at the loader.
const RECEIVE: &str = "receive";
/// From there until its case is planned.
const QUEUE: &str = "queue";
/// What no node has worked: on the way, and waiting for other windows.
const BETWEEN: &str = "between";

/// Times of an image, seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// From its last byte to its arrival at the loader.
    pub receive: f64,
    /// From there until its case was planned.
    pub queue: f64,
    /// From there until its mask was sent.
    pub segmenting: f64,
    /// What each node, by its id, worked of that.
    pub work: Arc<BTreeMap<String, f64>>,
}

impl Wait {
    fn total(&self) -> f64 {
        self.receive + self.queue + self.segmenting
    }

    /// The time of a part: of [`RECEIVE`], [`QUEUE`], [`BETWEEN`] or of a node.
    fn part(&self, name: &str) -> f64 {
        match name {
            RECEIVE => self.receive,
            QUEUE => self.queue,
            BETWEEN => (self.segmenting - self.work.values().sum::<f64>()).max(0.0),
            node => self.work.get(node).copied().unwrap_or(0.0),
        }
    }
}

/// The times of the newest images.
#[derive(Debug, Default)]
pub struct Latencies {
    provisional: VecDeque<Wait>,
    complete: VecDeque<Wait>,
}

/// Percentiles over images, seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Percentiles {
    /// Number of images.
    pub images: usize,
    /// Half of the images took at most this long from their last byte until their mask was sent.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// The slowest.
    pub max: f64,
    /// Parts of this time: `receive` (until the image is at the loader), `queue` (until its case is planned), the work of each
    /// node on the windows of its case, and `between` (on the way, and waiting for other windows).
    pub parts: BTreeMap<String, Part>,
}

/// Percentiles of a part of the time, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    pub p50: f64,
    pub p95: f64,
}

/// Figures of live segmentation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
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
    let sorted = |of: &dyn Fn(&Wait) -> f64| {
        let mut values: Vec<f64> = waits.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    // The smallest value that at least this part of the values does not exceed.
    let at = |values: &[f64], part: f64| values[(part * values.len() as f64).ceil().max(1.0) as usize - 1];
    let nodes: BTreeSet<&str> = waits.iter().flat_map(|wait| wait.work.keys().map(String::as_str)).collect();
    let part = |name: &str| {
        let values = sorted(&|wait| wait.part(name));
        (name.to_owned(), Part { p50: at(&values, 0.5), p95: at(&values, 0.95) })
    };
    let total = sorted(&Wait::total);
    Some(Percentiles {
        images: waits.len(),
        p50: at(&total, 0.5),
        p95: at(&total, 0.95),
        max: at(&total, 1.0),
        parts: nodes.into_iter().chain([RECEIVE, QUEUE, BETWEEN]).map(part).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_images_of_each_kind_and_divided_into_parts() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.figures(), None);
        let work =
            Arc::new(BTreeMap::from([("image-encoder".to_owned(), 0.5), ("decoder".to_owned(), 0.25)]));
        let wait = |number: usize| Wait {
            receive: 0.25,
            queue: 0.75,
            segmenting: number as f64,
            work: work.clone(),
        };
        latencies.add(true, (1..=100).rev().map(wait));
        latencies.add(false, [wait(7)]);
        let LiveFigures { provisional, complete } = latencies.figures().unwrap();
        let provisional = provisional.unwrap();
        assert_eq!((provisional.images, provisional.p50, provisional.p95), (100, 51.0, 96.0));
        assert_eq!(provisional.max, 101.0);
        let parts: Vec<_> =
            provisional.parts.iter().map(|(name, part)| (&**name, part.p50, part.p95)).collect();
        let expected = [
            ("between", 49.25, 94.25),
            ("decoder", 0.25, 0.25),
            ("image-encoder", 0.5, 0.5),
            ("queue", 0.75, 0.75),
            ("receive", 0.25, 0.25),
        ];
        assert_eq!(parts, expected);
        assert_eq!(complete.unwrap().p95, 8.0);
    }
}
