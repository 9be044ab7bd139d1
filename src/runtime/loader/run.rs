//! A run of the loader: its open cases and windows, and the writer's answers.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, Float32Array, UInt8Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::ArrowNativeType;
use dora_node_api::{DoraNode, MetadataParameters};
use eyre::{Result, WrapErr, bail, eyre};
use ndarray::{Array, Dimension};
use uuid::Uuid;

use super::{LABELS, Loader};
use crate::message::control::{Ack, AckMessage, CaseMessage, CaseOpen, Status, from_json, to_json};
use crate::message::{SliceHeader, encode_text, text};
use crate::runtime::dispatch::{Action, Dispatcher, Timing};
use crate::runtime::events::send;
use crate::runtime::join::Leave;
use crate::runtime::notice::{Notice, tell};
use crate::runtime::startup::reason;
use crate::volume::{CasePlan, PreparedCase};

/// Most cases in memory: the one being sent, the one being read, and those waiting to be written.
const MAX_OPEN_CASES: usize = 3;
/// A case fails if one of its windows is lost this often.
const MAX_ATTEMPTS: i64 = 6;
/// Time after which a control message is sent again if the writer has not answered.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

struct OpenCase {
    message: CaseMessage,
    plan: CasePlan,
    prepared: PreparedCase,
}

/// A run of the loader.
pub(super) struct Run {
    loader: Arc<Loader>,
    to_reader: mpsc::Sender<usize>,
    session_id: String,
    started_unix_ms: u64,
    pub commanded_unix_ms: Option<u64>,
    dispatcher: Dispatcher,
    /// Open cases by first segment.
    open: BTreeMap<i64, OpenCase>,
    requested: usize,
    prepared: usize,
    next_segment: i64,
    failures: BTreeMap<String, String>,
    /// Control messages that the writer must acknowledge, by case, with the time when they were last sent.
    unconfirmed: BTreeMap<String, (CaseMessage, Instant)>,
    end_sent: Option<Instant>,
    pub end_is_acknowledged: bool,
    writer_id: Option<String>,
    /// Whether the dataflow declares the output for labels.
    sends_labels: bool,
    /// Cases that the present writer has acknowledged, and those that an earlier one had.
    written: Vec<String>,
    written_before_restart: Vec<String>,
    announced: Instant,
}

impl Run {
    pub fn new(loader: Arc<Loader>, to_reader: mpsc::Sender<usize>, sends_labels: bool) -> Self {
        let timing = Timing {
            credits: loader.settings.credits,
            ack_timeout: loader.settings.ack_timeout,
            max_attempts: MAX_ATTEMPTS,
        };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            loader,
            to_reader,
            session_id: Uuid::new_v4().to_string(),
            started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            commanded_unix_ms: None,
            dispatcher: Dispatcher::new(timing),
            open: BTreeMap::new(),
            requested: 0,
            prepared: 0,
            next_segment: 0,
            failures: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            end_sent: None,
            end_is_acknowledged: false,
            writer_id: None,
            sends_labels,
            written: Vec::new(),
            written_before_restart: Vec::new(),
            announced: Instant::now(),
        }
    }

    pub fn on_input(&mut self, node: &mut DoraNode, id: &str, array: &ArrayRef) -> Result<()> {
        let json = text(array).wrap_err_with(|| format!("input `{id}`"))?;
        if id != "ack" {
            let status: Status = from_json(json).wrap_err_with(|| format!("input `{id}`"))?;
            for segment in status.segments {
                self.dispatcher.alive(segment, Instant::now());
            }
            for (segment, error) in status.failed {
                let case = self.open.range(..=segment).next_back().map(|(_, case)| case);
                if let Some(case) = case.filter(|_| self.dispatcher.is_open(segment)) {
                    let case_id = case.plan.files.case_id.clone();
                    self.fail(node, case_id, error)?;
                }
            }
            return Ok(());
        }
        let AckMessage { writer_id, ack } = from_json(json).wrap_err("input `ack`")?;
        match &self.writer_id {
            Some(known) if *known == writer_id => {}
            known => {
                if known.is_some() {
                    tracing::warn!("the writer has restarted: its open cases are sent again");
                    self.dispatcher.restart();
                    for case in self.open.values() {
                        send_case(node, &case.message)?;
                    }
                    self.repeat_control(node, Duration::ZERO)?;
                    self.written_before_restart.append(&mut self.written);
                }
                self.writer_id = Some(writer_id);
            }
        }
        match ack {
            Ack::Hello => {}
            Ack::Segment(segment) => self.dispatcher.acknowledge(segment, Instant::now()),
            Ack::Working(segments) => {
                for segment in segments {
                    self.dispatcher.alive(segment, Instant::now());
                }
            }
            Ack::Case(case_id) => {
                self.unconfirmed.remove(&case_id);
                self.close(&case_id);
                self.written.push(case_id);
            }
            Ack::CaseFailed { case_id, error } => {
                tracing::error!("{error}");
                tell(&Notice::CaseFailed { case_id: case_id.clone(), error: error.clone() });
                self.failures.insert(case_id.clone(), error);
                self.close(&case_id);
            }
            Ack::End => self.end_is_acknowledged = true,
            Ack::EndFailed(error) => {
                self.failures.insert("report".into(), error);
                self.end_is_acknowledged = true;
            }
        }
        Ok(())
    }

    fn close(&mut self, case_id: &str) {
        let first = self
            .open
            .iter()
            .find(|(_, case)| case.plan.files.case_id.as_str() == case_id)
            .map(|(&first, _)| first);
        if let Some(first) = first {
            self.open.remove(&first);
            self.dispatcher.close_case(first);
        }
    }

    pub fn on_prepared(
        &mut self,
        node: &mut DoraNode,
        index: usize,
        outcome: Result<(CasePlan, PreparedCase)>,
    ) -> Result<()> {
        self.prepared += 1;
        let case_id = self.loader.cases[index].case_id.clone();
        let (plan, prepared) = match outcome {
            Ok(case) => case,
            Err(error) => return self.fail(node, case_id, reason(&error)),
        };
        let first = self.next_segment;
        let windows = plan.windows().len();
        self.next_segment += windows as i64;
        let message = CaseMessage::Open(Box::new(CaseOpen {
            session_id: self.session_id.clone(),
            first_segment: first,
            index,
            cases: self.loader.cases.len(),
            classes: self.loader.classes.clone(),
            started_unix_ms: self.started_unix_ms,
            commanded_unix_ms: self.commanded_unix_ms,
            plan: plan.clone(),
        }));
        send_case(node, &message)?;
        tracing::info!("case {case_id}: {windows} windows");
        self.dispatcher.open_case(first, windows);
        self.open.insert(first, OpenCase { message, plan, prepared });
        Ok(())
    }

    fn fail(&mut self, node: &mut DoraNode, case_id: String, error: String) -> Result<()> {
        tracing::error!("{error}");
        tell(&Notice::CaseFailed { case_id: case_id.clone(), error: error.clone() });
        self.close(&case_id);
        self.failures.insert(case_id.clone(), error.clone());
        let message = CaseMessage::Failed { case_id: case_id.clone(), error };
        send_case(node, &message)?;
        self.unconfirmed.insert(case_id, (message, Instant::now()));
        Ok(())
    }

    pub fn on_tick(&mut self, node: &mut DoraNode) -> Result<()> {
        self.repeat_control(node, REPEAT_AFTER)?;
        if self.announced.elapsed() > REPEAT_AFTER
            && let Some(first) = self.dispatcher.overdue_case(Instant::now(), REPEAT_AFTER)
            && let Some(case) = self.open.get(&first)
        {
            // If the case has been written, the writer answers at once; if it is being written, the writer answers
            // afterwards.
            send_case(node, &case.message)?;
            self.announced = Instant::now();
        }
        if self.end_sent.is_some_and(|sent| sent.elapsed() > REPEAT_AFTER) {
            self.end_sent = None;
        }
        Ok(())
    }

    fn repeat_control(&mut self, node: &mut DoraNode, after: Duration) -> Result<()> {
        for (message, sent) in self.unconfirmed.values_mut() {
            if sent.elapsed() >= after {
                send_case(node, message)?;
                *sent = Instant::now();
            }
        }
        Ok(())
    }

    pub fn send_what_is_due(&mut self, node: &mut DoraNode) -> Result<()> {
        let waiting_for_reader = self.requested > self.prepared;
        let total = self.loader.cases.len();
        if !waiting_for_reader && self.requested < total && self.open.len() < MAX_OPEN_CASES {
            self.to_reader.send(self.requested).map_err(|_| eyre!("the reader has ended"))?;
            self.requested += 1;
        }
        loop {
            match self.dispatcher.next(Instant::now()) {
                Action::Wait => break,
                Action::Send { segment, attempt } => self.send_window(node, segment, attempt)?,
                Action::GiveUp { case } => {
                    let case_id =
                        self.open.get(&case).map(|c| c.plan.files.case_id.clone()).unwrap_or_default();
                    let error = format!("case {case_id}: a window was lost {MAX_ATTEMPTS} times");
                    self.fail(node, case_id, error)?;
                    self.dispatcher.close_case(case);
                }
            }
        }
        if self.prepared == total
            && self.open.is_empty()
            && self.unconfirmed.is_empty()
            && self.end_sent.is_none()
        {
            send_case(node, &CaseMessage::End { cases: total })?;
            self.end_sent = Some(Instant::now());
        }
        Ok(())
    }

    fn send_window(&mut self, node: &mut DoraNode, segment: i64, attempt: i64) -> Result<()> {
        let Some((&first, case)) = self.open.range(..=segment).next_back() else { return Ok(()) };
        if attempt > 0 {
            tracing::warn!(
                "case {}: window {} is sent again ({attempt})",
                case.plan.files.case_id.as_str(),
                segment - first
            );
            send_case(node, &case.message)?;
        }
        let window = usize::try_from(segment - first)?;
        let voxels = case.prepared.window(window);
        let labels = self.sends_labels.then(|| case.prepared.label_window(window)).flatten();
        let voxels = voxels.permuted_axes([1, 0, 2, 3]);
        let (depth, modalities, height, width) = voxels.dim();
        let header = SliceHeader {
            session_id: self.session_id.clone(),
            segment_id: segment,
            attempt,
            seq: 0,
            count: depth as i64,
            case_id: case.plan.files.case_id.clone(),
            classes: self.loader.classes.len() as i64,
            level: None,
            slices: None,
            covered: case.plan.covered(window),
            shape: Vec::new(),
        };
        // Slices are lent parts of the window, which is copied only if there are several modalities.
        let (voxels, labels) = (values_of(voxels), labels.map(values_of));
        let plane = height * width;
        for seq in 0..depth {
            let at = |shape: &[usize]| {
                let shape = shape.iter().map(|&size| size as i64).collect();
                header.at(seq as i64, shape).to_parameters()
            };
            let length = modalities * plane;
            let slice = Float32Array::new(voxels.slice(seq * length, length), None);
            send(node, "slices", at(&[modalities, height, width]), Arc::new(slice))?;
            if let Some(labels) = &labels {
                let slice = UInt8Array::new(labels.slice(seq * plane, plane), None);
                send(node, LABELS, at(&[height, width]), Arc::new(slice))?;
            }
        }
        Ok(())
    }

    pub fn ended_early(&self, why: &str) -> eyre::Report {
        let mut missing: Vec<&str> =
            self.open.values().map(|case| case.plan.files.case_id.as_str()).collect();
        missing.extend(self.loader.cases[self.prepared..].iter().map(|case| case.case_id.as_str()));
        missing.extend(self.failures.keys().map(String::as_str));
        let error = format!("{why} before these cases were written: {}", missing.join(", "));
        eyre::Report::new(Leave::EndedEarly(error))
    }

    pub fn outcome(self) -> Result<()> {
        if !self.written_before_restart.is_empty() {
            bail!(
                "the writer was restarted: all label maps are written, but the figures and the report lack {}",
                self.written_before_restart.join(", ")
            );
        }
        match self.failures.len() {
            0 => Ok(()),
            failed => {
                let names: Vec<&str> = self.failures.keys().map(String::as_str).collect();
                let cases = self.loader.cases.len();
                bail!(Leave::Told(format!("{failed} of {cases} cases failed: {}", names.join(", "))))
            }
        }
    }
}

/// The values of an array in C order. Copies only if they are in another order in memory.
fn values_of<T: ArrowNativeType, D: Dimension>(array: Array<T, D>) -> ScalarBuffer<T> {
    let array = if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() };
    let length = array.len();
    let (values, start) = array.into_raw_vec_and_offset();
    ScalarBuffer::from(values).slice(start.unwrap_or(0), length)
}

fn send_case(node: &mut DoraNode, message: &CaseMessage) -> Result<()> {
    send(node, "cases", MetadataParameters::new(), encode_text(&to_json(message)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slices_of_a_window_are_lent_and_of_several_modalities_gathered() {
        for modalities in [1, 2] {
            let window = Array::from_shape_fn((modalities, 3, 2, 2), |(m, d, y, x)| {
                (100 * m + 10 * d + 2 * y + x) as f32
            });
            let start = window.as_ptr();
            let values = values_of(window.permuted_axes([1, 0, 2, 3]));
            assert_eq!(values.as_ptr() == start, modalities == 1);
            let second = values.slice(4 * modalities, 4 * modalities);
            let expected: Vec<f32> =
                (0..modalities).flat_map(|m| (0..4).map(move |i| (100 * m + 10 + i) as f32)).collect();
            assert_eq!(second.to_vec(), expected);
        }
    }
}
