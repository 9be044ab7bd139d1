//! Which mask belongs to which message of a connection, and which are still awaited.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::header::ImageHeader;
use super::meta::Meta;
use super::returned::encode_image;
use crate::message::live::Mask;

/// Time that masks on their way get once their series is written: they come by another way than this news.
const GRACE: Duration = Duration::from_secs(10);
/// Most bytes of attributes that are kept for the answers.
const MOST_META_BYTES: usize = 64 << 20;

/// An image that came, and the masks of its slices.
#[derive(Debug)]
struct Sent {
    header: Arc<ImageHeader>,
    meta: Arc<Meta>,
    /// Index in the series of its first slice.
    first: usize,
    finals: Collected,
    provisional: Collected,
}

/// Masks of the slices of an image.
#[derive(Debug, Default)]
struct Collected {
    masks: Vec<Option<Vec<u8>>>,
    is_answered: bool,
}

impl Collected {
    /// Adds a mask; all of them in their order, once they are complete.
    fn add(&mut self, slice: usize, slices: usize, mask: Vec<u8>) -> Option<Vec<u8>> {
        self.masks.resize(slices, None);
        *self.masks.get_mut(slice)? = Some(mask);
        if self.masks.iter().any(Option::is_none) {
            return None;
        }
        self.is_answered = true;
        Some(std::mem::take(&mut self.masks).into_iter().flatten().flatten().collect())
    }
}

/// The images of a series.
#[derive(Debug, Default)]
struct Series {
    revision: i64,
    sent: Vec<Sent>,
    images: usize,
    /// When everything about it was written, and why not all of it could be segmented.
    done: Option<(Instant, Option<String>)>,
}

impl Series {
    fn missing(&self) -> usize {
        let slices = |sent: &&Sent| usize::from(sent.header.matrix_size[2]);
        self.sent.iter().filter(|sent| !sent.finals.is_answered).map(|sent| slices(&sent)).sum()
    }
}

/// A message to the client.
#[derive(Debug, Clone)]
pub struct Answer {
    header: Arc<ImageHeader>,
    meta: Arc<Meta>,
    /// Class of each pixel.
    classes: Vec<u8>,
    most: i64,
    pub is_provisional: bool,
}

impl Answer {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.classes.len() + self.meta.bytes() + size_of::<ImageHeader>()
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        encode_image(&self.header, &self.meta, &self.classes, self.is_provisional, self.most)
    }
}

/// Whether a client still gets something.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Masks are awaited.
    Waiting,
    /// Nothing is awaited; a line for each series that has not all of its masks.
    Complete(Vec<String>),
}

/// What a connection awaits.
#[derive(Debug, Default)]
pub struct Answers {
    series: BTreeMap<String, Series>,
    meta_bytes: usize,
}

impl Answers {
    /// An image of a series is being stored. Its slices are the next images of the series.
    pub fn expect(&mut self, series_id: &str, header: ImageHeader, meta: Meta) {
        self.meta_bytes += meta.bytes();
        let meta = if self.meta_bytes > MOST_META_BYTES { Meta::default() } else { meta };
        let series = self.series.entry(series_id.to_owned()).or_default();
        series.done = None;
        let (first, slices) = (series.images, usize::from(header.matrix_size[2]));
        series.images += slices;
        series.sent.push(Sent {
            header: Arc::new(header),
            meta: Arc::new(meta),
            first,
            finals: Collected::default(),
            provisional: Collected::default(),
        });
    }

    /// The last image of the series could not be stored.
    pub fn forget_last(&mut self, series_id: &str) {
        let Some(series) = self.series.get_mut(series_id) else { return };
        if let Some(sent) = series.sent.pop() {
            series.images = sent.first;
        }
    }

    /// A mask has come. Gives the answer if it was the last of its image.
    pub fn on_mask(&mut self, mask: &Mask, classes: Vec<u8>) -> Option<Answer> {
        let series =
            self.series.get_mut(&mask.series_id).filter(|series| mask.revision >= series.revision)?;
        if mask.revision > series.revision {
            series.revision = mask.revision;
            for sent in &mut series.sent {
                (sent.finals, sent.provisional) = Default::default();
            }
        }
        let index = usize::try_from(mask.index).ok().filter(|&index| index < series.images)?;
        let at = series.sent.partition_point(|sent| sent.first <= index).checked_sub(1)?;
        let sent = &mut series.sent[at];
        let [columns, rows, slices] = sent.header.matrix_size.map(usize::from);
        if sent.finals.is_answered || classes.len() != columns * rows {
            return None;
        }
        let collected = if mask.provisional { &mut sent.provisional } else { &mut sent.finals };
        let classes = collected.add(index - sent.first, slices, classes)?;
        let (header, meta) = (sent.header.clone(), sent.meta.clone());
        Some(Answer { header, meta, classes, most: mask.classes - 1, is_provisional: mask.provisional })
    }

    /// Everything about a series is written, or it has failed.
    pub fn on_done(&mut self, series_id: &str, error: Option<String>, now: Instant) {
        if let Some(series) = self.series.get_mut(series_id) {
            series.done = Some((now, error));
        }
    }

    /// Whether there is a series with this id.
    pub fn has(&self, series_id: &str) -> bool {
        self.series.contains_key(series_id)
    }

    /// The series of the connection.
    pub fn series_ids(&self) -> Vec<String> {
        self.series.keys().cloned().collect()
    }

    /// Whether anything is awaited.
    pub fn state(&self, now: Instant) -> State {
        let mut lines = Vec::new();
        for series in self.series.values() {
            match (&series.done, series.missing()) {
                (_, 0) => {}
                (Some((since, error)), missing) if now.duration_since(*since) >= GRACE => {
                    lines.push(match error {
                        Some(error) => format!("{missing} images could not be segmented: {error}"),
                        None => format!("the masks of {missing} images were lost on their way"),
                    });
                }
                _ => return State::Waiting,
            }
        }
        State::Complete(lines)
    }

    /// Number of images without their final mask.
    pub fn missing(&self) -> usize {
        self.series.values().map(Series::missing).sum()
    }
}
