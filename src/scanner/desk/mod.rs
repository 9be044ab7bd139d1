//! What is sent to the loader, and when: images within credits, again if they are not acknowledged, everything again to a
//! loader that has restarted; beginning, end and failure of series.

mod series;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decode::{Decoded, Request};
use super::intake::Intake;
use crate::message::live::{Frame, FrameAck, FrameAckMessage, SeriesMessage};
use series::Series;

/// Most unacknowledged images.
const CREDITS: usize = 64;
/// Most images that are being decoded, which bounds memory.
const MOST_DECODING: usize = 4;
/// Time after which the loader is told of the end of a series again.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// Loaders that have been replaced, whose last messages may still come.
const MOST_RETIRED: usize = 16;

/// Something to send.
#[derive(Debug)]
pub enum Outgoing {
    Series(SeriesMessage),
    Frame(Box<Frame>, Vec<f32>),
}

/// The state of all series that are not finished.
pub struct Desk {
    intake: Arc<Intake>,
    idle: Duration,
    series: BTreeMap<String, Series>,
    /// The series whose image was taken last.
    turn: String,
    decoding: usize,
    loader_id: Option<String>,
    retired: VecDeque<String>,
    outgoing: VecDeque<Outgoing>,
}

impl Desk {
    /// Goes on with what the spool holds. A series has ended if no image comes for as long as `idle`.
    pub fn new(intake: Arc<Intake>, idle: Duration, now: Instant) -> Self {
        let unfinished = intake.spool().unfinished();
        let mut desk = Self {
            intake,
            idle,
            series: BTreeMap::new(),
            turn: String::new(),
            decoding: 0,
            loader_id: None,
            retired: VecDeque::new(),
            outgoing: VecDeque::new(),
        };
        for series_id in unfinished {
            desk.recover(&series_id, now);
        }
        desk
    }

    /// What is to be sent now.
    pub fn take_outgoing(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    fn recover(&mut self, series_id: &str, now: Instant) {
        let Some(state) = self.intake.spool().series(series_id) else { return };
        let record = state.record;
        let mut series = Series::new(record.name, record.revision, state.images, now);
        let is_late = record.closed.is_some_and(|closed| state.images > closed);
        series.is_closed = record.closed.is_some() && !is_late;
        tracing::info!("series {} goes on with {} images", series.name, state.images);
        self.series.insert(series_id.to_owned(), series);
        if is_late { self.reopen(series_id, now) } else { self.announce(series_id, now) }
    }

    /// The spool has new images of a series.
    pub fn on_stored(&mut self, series_id: &str, now: Instant) {
        let Some(state) = self.intake.spool().series(series_id) else { return };
        if let Some(series) = self.series.get_mut(series_id) {
            if state.images == series.images {
                return; // counted already
            }
            series.images = state.images;
            series.changed = now;
            if series.is_closed || series.error.is_some() {
                self.reopen(series_id, now);
            }
        } else {
            let record = state.record;
            let series = Series::new(record.name, record.revision, state.images, now);
            self.series.insert(series_id.to_owned(), series);
            match record.done {
                Some(_) => self.reopen(series_id, now),
                None => self.announce(series_id, now),
            }
        }
        if state.expected == Some(state.images as i64) {
            self.close(series_id, now);
        }
    }

    /// The sender of a series has said that it has sent everything.
    pub fn on_ended(&mut self, series_id: &str, now: Instant) {
        self.close(series_id, now);
    }

    /// Whether the series is not finished.
    pub fn has(&self, series_id: &str) -> bool {
        self.series.contains_key(series_id)
    }

    /// A late image: the series begins again.
    fn reopen(&mut self, series_id: &str, now: Instant) {
        let Some(series) = self.series.get_mut(series_id) else { return };
        let revision = series.revision + 1;
        tracing::info!("series {} has a late image: it begins again", series.name);
        series.is_closed = false;
        series.error = None;
        series.restart(revision, now);
        noted(self.intake.spool().reopen(series_id), &series.name);
        self.announce(series_id, now);
    }

    fn close(&mut self, series_id: &str, now: Instant) {
        let Some(series) = self.series.get_mut(series_id).filter(|series| !series.is_closed) else { return };
        series.is_closed = true;
        tracing::info!("series {} is complete: {} images", series.name, series.images);
        noted(self.intake.spool().close(series_id, series.images), &series.name);
        self.announce_end(series_id, now);
    }

    /// Tells the loader of the series, and of its end.
    fn announce(&mut self, series_id: &str, now: Instant) {
        let expected = self.intake.spool().series(series_id).and_then(|state| state.expected);
        let Some(series) = self.series.get(series_id) else { return };
        self.outgoing.push_back(Outgoing::Series(SeriesMessage::Open {
            series_id: series_id.to_owned(),
            revision: series.revision,
            name: series.name.clone(),
            expected,
        }));
        self.announce_end(series_id, now);
    }

    fn announce_end(&mut self, series_id: &str, now: Instant) {
        let Some(series) = self.series.get_mut(series_id) else { return };
        series.announced = now;
        let (series_id, revision) = (series_id.to_owned(), series.revision);
        let message = match &series.error {
            Some(error) => SeriesMessage::Failed { series_id, revision, error: error.clone() },
            None if series.is_closed => {
                SeriesMessage::Closed { series_id, revision, images: series.images as i64 }
            }
            None => return,
        };
        self.outgoing.push_back(Outgoing::Series(message));
    }

    /// The loader acknowledges something.
    pub fn on_ack(&mut self, message: FrameAckMessage, now: Instant) {
        let FrameAckMessage { loader_id, ack } = message;
        if self.retired.contains(&loader_id) {
            return;
        }
        if self.loader_id.as_ref() != Some(&loader_id) {
            let before = self.loader_id.replace(loader_id);
            if before.is_some() || ack == FrameAck::Hello {
                self.send_all_again(now);
            }
            self.retired.extend(before);
            self.retired.drain(..self.retired.len().saturating_sub(MOST_RETIRED));
        }
        match ack {
            FrameAck::Hello | FrameAck::Waiting => {}
            FrameAck::Images { series_id, revision, indices } => {
                let series = self.series.get_mut(&series_id).filter(|series| series.revision == revision);
                if let Some(series) = series {
                    let indices = indices.into_iter().filter_map(|index| usize::try_from(index).ok());
                    indices.for_each(|index| series.acknowledge(index));
                }
            }
            FrameAck::Done { series_id, revision, error } => self.on_done(&series_id, revision, error),
        }
    }

    fn send_all_again(&mut self, now: Instant) {
        if !self.series.is_empty() {
            tracing::info!("a loader has started: the images of {} series are sent to it", self.series.len());
        }
        for series_id in self.series.keys().cloned().collect::<Vec<_>>() {
            if let Some(series) = self.series.get_mut(&series_id) {
                series.restart(series.revision, now);
            }
            self.announce(&series_id, now);
        }
    }

    fn on_done(&mut self, series_id: &str, revision: i64, error: Option<String>) {
        let is_current = |series: &&Series| {
            series.revision == revision && (series.is_closed || series.error.is_some() || error.is_some())
        };
        let Some(series) = self.series.get(series_id).filter(is_current) else { return };
        noted(self.intake.spool().finish(series_id, error), &series.name);
        self.series.remove(series_id);
    }

    /// Called every second.
    pub fn on_tick(&mut self, now: Instant) {
        self.intake.spool().prune();
        let mut ended = Vec::new();
        let mut to_repeat = Vec::new();
        for (series_id, series) in &mut self.series {
            series.on_time(now);
            let is_quiet = now.duration_since(series.changed) >= self.idle;
            if !series.is_closed && is_quiet && !self.intake.is_being_sent(series_id) {
                ended.push(series_id.clone());
            }
            let has_ended = series.error.is_some() || (series.is_closed && series.is_delivered());
            if has_ended && now.duration_since(series.announced) >= REPEAT_AFTER {
                to_repeat.push(series_id.clone());
            }
        }
        ended.iter().for_each(|series_id| self.close(series_id, now));
        to_repeat.iter().for_each(|series_id| self.announce(series_id, now));
    }

    /// The next image to decode, if the credits allow one. Series take turns.
    pub fn next_request(&mut self) -> Option<Request> {
        let credits: usize = self.series.values().map(Series::credits).sum();
        if self.decoding >= MOST_DECODING || credits >= CREDITS {
            return None;
        }
        let after = self.series.range(self.turn.clone()..).map(|(id, _)| id).filter(|id| **id != self.turn);
        let order: Vec<String> =
            after.chain(self.series.range(..=self.turn.clone()).map(|(id, _)| id)).cloned().collect();
        for series_id in order {
            let Some(series) = self.series.get_mut(&series_id) else { continue };
            let Some(index) = series.take_next() else { continue };
            let revision = series.revision;
            let Some(file) = self.intake.spool().image(&series_id, index) else { continue };
            self.decoding += 1;
            self.turn.clone_from(&series_id);
            return Some(Request { series_id, revision, index, file });
        }
        None
    }

    /// An image is decoded, or cannot be.
    pub fn on_decoded(&mut self, decoded: Decoded, now: Instant) {
        self.decoding -= 1;
        let Decoded { request, outcome } = decoded;
        let Request { series_id, revision, index, file } = request;
        let Some(series) = self.series.get_mut(&series_id) else { return };
        if series.revision != revision || !series.decoded(index) {
            return;
        }
        match outcome {
            Ok((placement, pixels)) => {
                series.sent(index, now);
                let received_ns = file.received_ns;
                let frame = Frame { series_id, revision, index: index as i64, received_ns, placement };
                self.outgoing.push_back(Outgoing::Frame(Box::new(frame), pixels));
            }
            Err(error) => {
                tracing::error!("series {}: {error}", series.name);
                series.error = Some(error);
                self.announce_end(&series_id, now);
            }
        }
    }
}

/// A record that cannot be written matters only to the next process.
fn noted(written: io::Result<()>, name: &str) {
    if let Err(error) = written {
        tracing::warn!("series {name}: its state cannot be saved: {error}");
    }
}
