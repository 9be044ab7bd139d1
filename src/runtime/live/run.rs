//! The live loader's event loop: images in, provisional cases while they come, complete cases afterwards.

mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use arrow::array::ArrayRef;
use dora_node_api::{DoraNode, MetadataParameters};
use eyre::{Result, bail, eyre};

use super::LiveLoader;
use super::complete::case_name;
use super::image::Image;
use super::provisional::Request;
use super::series::{Key, Series, in_order};
use super::source_link::SourceLink;
use super::work::Job;
use crate::message::control::{CaseMessage, from_json};
use crate::message::live::{FrameAck, SeriesMessage};
use crate::message::text;
use crate::runtime::loader::delivery::{Delivery, News, REPEAT_AFTER};
use crate::runtime::loader::outgoing::send_case;
use crate::runtime::notice::{Notice, tell};

/// Most complete cases in memory at the same time.
const MAX_COMPLETE: usize = 2;
/// With so many series with images in memory, or so many bytes of images, only the images of the series that has most are
/// taken; the others wait in the source.
const MAX_SERIES: usize = 64;
const MAX_BYTES: usize = 4 << 30;
/// dora ends a dataflow in which no node says anything for long.
const ALIVE_EVERY: Duration = Duration::from_secs(60);

/// The state of the loop.
pub(super) struct LiveRun {
    loader: Arc<LiveLoader>,
    pub delivery: Delivery,
    /// For provisional cases, and for complete ones.
    workers: [mpsc::Sender<Job>; 2],
    source: SourceLink,
    series: BTreeMap<Key, Series>,
    /// The series that has each name.
    names: BTreeMap<String, String>,
    /// Series of the open cases.
    owners: BTreeMap<String, Key>,
    /// Complete cases being prepared or segmented.
    in_work: usize,
    finished: usize,
    failed: Vec<String>,
    end_sent: Option<Instant>,
    pub end_is_acknowledged: bool,
    alive: Instant,
}

impl LiveRun {
    pub fn new(loader: Arc<LiveLoader>, delivery: Delivery, workers: [mpsc::Sender<Job>; 2]) -> Self {
        Self {
            loader,
            delivery,
            workers,
            source: SourceLink::new(),
            series: BTreeMap::new(),
            names: BTreeMap::new(),
            owners: BTreeMap::new(),
            in_work: 0,
            finished: 0,
            failed: Vec::new(),
            end_sent: None,
            end_is_acknowledged: false,
            alive: Instant::now(),
        }
    }

    /// Tells the source that this loader has started.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn hello(&self, node: &mut DoraNode) -> Result<()> {
        self.source.acknowledge(node, FrameAck::Hello)
    }

    /// An image has arrived.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn on_frame(
        &mut self,
        node: &mut DoraNode,
        parameters: &MetadataParameters,
        array: &ArrayRef,
    ) -> Result<()> {
        let image = match Image::receive(parameters, array) {
            Ok(image) => image,
            // It is not acknowledged, and its series waits for it.
            Err(error) => {
                tracing::error!("input `frames`: {error}");
                return Ok(());
            }
        };
        let (series_id, revision) = (image.frame.series_id.clone(), image.frame.revision);
        let indices = vec![image.frame.index];
        let key = (series_id.clone(), revision);
        if self.source.answer_if_done(node, &key)? {
            return Ok(());
        }
        if !self.has_room(&key) {
            return Ok(());
        }
        self.begun(key).add(image);
        self.source.acknowledge(node, FrameAck::Images { series_id, revision, indices })
    }

    /// A series; if it is new, it begins now.
    fn begun(&mut self, key: Key) -> &mut Series {
        let place = self.series.values().map(|series| series.place + 1).max().unwrap_or(0);
        self.series.entry(key).or_insert_with(|| Series::new(place))
    }

    /// Whether there is room for another image of a series. There always is for one series, so that it gets complete.
    fn has_room(&self, key: &Key) -> bool {
        let bytes = |key: &Key| self.series.get(key).map_or(0, Series::bytes);
        let held = self.series.values().map(Series::bytes).filter(|&bytes| bytes > 0);
        let is_full = held.clone().sum::<usize>() >= MAX_BYTES
            || (bytes(key) == 0 && held.clone().count() >= MAX_SERIES);
        !is_full || self.series.keys().max_by_key(|key| bytes(key)) == Some(key)
    }

    /// A name that no other series has had.
    fn name_of(&mut self, name: String, series_id: &str) -> String {
        let owner = self.names.entry(name.clone()).or_insert_with(|| series_id.to_owned());
        if owner == series_id { name } else { format!("{name}_{series_id}") }
    }

    /// A series begins, ends or fails. A message that violates the contract is only logged.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn on_series(&mut self, node: &mut DoraNode, array: &ArrayRef) -> Result<()> {
        let message = match text(array).and_then(from_json) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!("input `series`: {error}");
                return Ok(());
            }
        };
        match message {
            SeriesMessage::Open { series_id, revision, name, .. } => {
                let name = self.name_of(name, &series_id);
                let key = (series_id, revision);
                if self.source.answer_if_done(node, &key)? {
                    return Ok(());
                }
                if self.series.get(&key).is_none_or(|series| series.name.is_none()) {
                    say(format!("series {name} begins"));
                }
                self.replace_earlier(node, &key)?;
                self.begun(key).name = Some(name);
            }
            SeriesMessage::Closed { series_id, revision, images } => {
                let key = (series_id, revision);
                if self.source.answer_if_done(node, &key)? {
                    return Ok(());
                }
                let series = self.begun(key.clone());
                series.closed = Some(images);
                if images <= 0 {
                    series.errors.push("a series without images".into());
                    self.finish(node, &key)?;
                }
            }
            SeriesMessage::Failed { series_id, revision, error } => {
                let key = (series_id, revision);
                if self.source.answer_if_done(node, &key)? {
                    return Ok(());
                }
                let series = self.begun(key.clone());
                let name = case_name(series.name.as_ref().unwrap_or(&key.0), &[], key.1);
                series.errors.push(error.clone());
                self.delivery.fail(node, name, error)?;
                self.finish(node, &key)?;
            }
        }
        Ok(())
    }

    /// The writer, or a node between, says something about cases.
    ///
    /// # Errors
    /// A message that violates the contract.
    pub fn on_input(&mut self, node: &mut DoraNode, id: &str, array: &ArrayRef) -> Result<()> {
        for news in self.delivery.on_input(node, id, array)? {
            match news {
                News::Shown { case_id, bounds } => self.on_shown(&case_id, bounds),
                News::Written(case_id) => self.on_written(node, &case_id, None)?,
                News::Refused { case_id, error } => self.on_written(node, &case_id, Some(error))?,
                News::Unsegmentable { case_id, error } => self.give_up(node, case_id, error)?,
                News::WriterRestarted => {}
                News::End(error) => {
                    self.failed.extend(error);
                    self.end_is_acknowledged = true;
                }
            }
        }
        Ok(())
    }

    fn on_shown(&mut self, case_id: &str, bounds: Option<[[usize; 2]; 2]>) {
        let Some(key) = self.owners.remove(case_id) else { return };
        let Some(series) = self.series.get_mut(&key) else { return };
        series.provisional.remove(case_id);
        series.saw(bounds);
    }

    /// A complete case is written or has failed.
    fn on_written(&mut self, node: &mut DoraNode, case_id: &str, error: Option<String>) -> Result<()> {
        let Some(key) = self.owners.remove(case_id) else { return Ok(()) };
        let Some(series) = self.series.get_mut(&key) else { return Ok(()) };
        if series.provisional.remove(case_id) {
            return Ok(());
        }
        if series.unwritten.remove(case_id) {
            self.in_work -= 1;
            series.errors.extend(error);
        }
        if series.is_done() { self.finish(node, &key) } else { Ok(()) }
    }

    /// A case cannot be segmented. A provisional one is only logged.
    fn give_up(&mut self, node: &mut DoraNode, case_id: String, error: String) -> Result<()> {
        let Some(key) = self.owners.get(&case_id).cloned() else { return Ok(()) };
        let is_provisional =
            self.series.get_mut(&key).is_some_and(|series| series.provisional.remove(&case_id));
        if is_provisional {
            tracing::warn!("no provisional masks: {error}");
            self.owners.remove(&case_id);
            return self.delivery.drop_case(node, case_id);
        }
        self.delivery.fail(node, case_id.clone(), error.clone())?;
        self.on_written(node, &case_id, Some(error))
    }

    fn finish(&mut self, node: &mut DoraNode, key: &Key) -> Result<()> {
        let Some(series) = self.series.remove(key) else { return Ok(()) };
        self.abandon(node, &series)?;
        let error = (!series.errors.is_empty()).then(|| series.errors.join("; "));
        match &error {
            None => say(format!("series {} is written", series.name.as_ref().unwrap_or(&key.0))),
            Some(_) => self.failed.push(series.name.clone().unwrap_or_else(|| key.0.clone())),
        }
        self.finished += 1;
        self.source.finish(node, key, error)
    }

    /// Gives up the cases of a series that are under way.
    fn abandon(&mut self, node: &mut DoraNode, series: &Series) -> Result<()> {
        self.in_work -= series.unwritten.len();
        for case_id in series.provisional.iter().chain(&series.unwritten) {
            self.owners.remove(case_id);
            self.delivery.drop_case(node, case_id.clone())?;
        }
        Ok(())
    }

    /// A series that begins again replaces its earlier revisions, unless they are being segmented as a whole already.
    fn replace_earlier(&mut self, node: &mut DoraNode, (series_id, revision): &Key) -> Result<()> {
        let is_replaced = |(id, earlier): &Key| id == series_id && earlier < revision;
        let replaced = self.series.extract_if(.., |key, series| is_replaced(key) && !series.is_complete);
        for (_, series) in replaced.collect::<Vec<_>>() {
            self.abandon(node, &series)?;
        }
        Ok(())
    }

    /// Called every second.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn on_tick(&mut self, node: &mut DoraNode) -> Result<()> {
        self.delivery.on_tick(node)?;
        if self.end_sent.is_some_and(|sent| sent.elapsed() > REPEAT_AFTER) {
            self.end_sent = None;
        }
        if self.alive.elapsed() > ALIVE_EVERY {
            self.alive = Instant::now();
            self.source.acknowledge(node, FrameAck::Waiting)?;
        }
        Ok(())
    }

    /// Starts what can be started, and sends windows.
    ///
    /// # Errors
    /// dora takes no messages; a worker that has ended.
    pub fn proceed(&mut self, node: &mut DoraNode) -> Result<()> {
        self.ask_for_provisional()?;
        self.ask_for_complete()?;
        for (case_id, error) in self.delivery.send_windows(node)? {
            self.give_up(node, case_id, error)?;
        }
        let wanted = self.loader.series;
        if wanted > 0 && self.finished >= wanted && self.delivery.is_complete() && self.end_sent.is_none() {
            send_case(node, &CaseMessage::End { cases: self.finished })?;
            self.end_sent = Some(Instant::now());
        }
        Ok(())
    }

    fn ask_for_provisional(&mut self) -> Result<()> {
        for ((series_id, revision), series) in in_order(&mut self.series) {
            let is_busy = series.is_making || !series.provisional.is_empty();
            if is_busy || series.new.is_empty() {
                continue;
            }
            let session = self.delivery.session_id();
            let name = format!("{series_id}.{revision} {session} {}", series.asked);
            let bounds = series.next_bounds();
            series.is_making = true;
            let request = Request {
                series_id: series_id.clone(),
                revision: *revision,
                name,
                images: series.images(),
                new: std::mem::take(&mut series.new),
                bounds,
            };
            give(&self.workers[0], Job::Provisional(request))?;
        }
        Ok(())
    }

    fn ask_for_complete(&mut self) -> Result<()> {
        for (key, series) in in_order(&mut self.series) {
            // The last images are shown first, as the complete series takes longer.
            if series.is_full() && series.new.is_empty() && !series.is_complete {
                series.is_complete = true;
                let name = series.name.clone().unwrap_or_else(|| key.0.clone());
                let images = series.images();
                give(&self.workers[1], Job::Divide { key: key.clone(), name, images })?;
            }
            while self.in_work < MAX_COMPLETE
                && let Some(complete) = series.waiting.pop_front()
            {
                self.in_work += 1;
                let case_id = complete.files.case_id.clone();
                series.unwritten.insert(case_id.clone());
                self.owners.insert(case_id, key.clone());
                give(&self.workers[1], Job::Prepare(complete))?;
            }
        }
        Ok(())
    }

    /// The outcome of a run with an end.
    ///
    /// # Errors
    /// Names the series that failed.
    pub fn outcome(self) -> Result<()> {
        let names: BTreeSet<&String> = self.failed.iter().collect();
        match names.len() {
            0 => Ok(()),
            _ => bail!("failed: {}", names.into_iter().cloned().collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Tells the user, in the log and at the command.
fn say(text: String) {
    tracing::info!("{text}");
    tell(&Notice::Said(text));
}

fn give(worker: &mpsc::Sender<Job>, job: Job) -> Result<()> {
    worker.send(job).map_err(|_| eyre!("a working thread has ended"))
}
