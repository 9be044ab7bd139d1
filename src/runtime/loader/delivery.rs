//! Delivery of cases to the writer: announced, sent window by window within the credits, sent again if lost, until the
//! writer has written them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::ArrayRef;
use dora_node_api::DoraNode;
use eyre::{Result, WrapErr};
use uuid::Uuid;

use super::outgoing::{send_case, send_slices};
use super::replicas::Replicas;
use crate::message::control::{
    Ack, AckMessage, CaseMessage, CaseOpen, LiveCase, Status, from_json, search_name,
};
use crate::message::{NodeTimes, SliceHeader, text};
use crate::runtime::Settings;
use crate::runtime::dispatch::{Action, Dispatcher, Timing};
use crate::runtime::notice::{Notice, tell};
use crate::volume::{CasePlan, ClassTable, PreparedCase, VoxelBox};

/// A case fails if one of its windows is lost this often.
const MAX_ATTEMPTS: i64 = 6;
/// Time after which a control message is sent again if the writer has not answered.
pub(in crate::runtime) const REPEAT_AFTER: Duration = Duration::from_secs(30);

struct OpenCase {
    message: CaseMessage,
    plan: CasePlan,
    prepared: PreparedCase,
    /// What follows the first pass over the case, if this is one.
    second: Option<Second>,
}

/// The second pass over a case.
struct Second {
    plan: CasePlan,
    place: (usize, usize),
    live: Option<LiveCase>,
}

impl OpenCase {
    /// Name of the case, whichever pass this is.
    fn name(&self) -> &str {
        &self.second.as_ref().map_or(&self.plan, |second| &second.plan).files.case_id
    }

    fn is_live(&self) -> bool {
        matches!(&self.message, CaseMessage::Open(open) if open.live.is_some())
    }
}

/// What has happened to a case.
#[derive(Debug)]
pub(in crate::runtime) enum News {
    /// The writer has written it, or has noted its failure.
    Written(String),
    /// The masks of a provisional case are sent; `bounds` are the columns and rows of its foreground, if any.
    Shown { case_id: String, bounds: Option<[[usize; 2]; 2]> },
    /// The writer cannot write it.
    Refused { case_id: String, error: String },
    /// A node cannot segment it. It is still open.
    Unsegmentable { case_id: String, error: String },
    /// The writer has restarted; the open cases are sent again.
    WriterRestarted,
    /// The end is acknowledged, with the error of the last files, if any.
    End(Option<String>),
}

/// The open cases and the state of their windows.
pub(in crate::runtime) struct Delivery {
    session_id: String,
    classes: ClassTable,
    image_size: i64,
    started_unix_ms: u64,
    pub commanded_unix_ms: Option<u64>,
    dispatcher: Dispatcher,
    /// Open cases by first segment.
    open: BTreeMap<i64, OpenCase>,
    next_segment: i64,
    /// Control messages that the writer must acknowledge, by case, with the time when they were last sent.
    unconfirmed: BTreeMap<String, (CaseMessage, Instant)>,
    writer_id: Option<String>,
    replicas: Replicas,
    announced: Instant,
}

impl Delivery {
    /// Of cases with these classes for a network with inputs of `image_size` × `image_size` pixels.
    pub fn new(settings: &Settings, classes: ClassTable, image_size: i64, replicas: Replicas) -> Self {
        let timing = Timing {
            credits: settings.credits * replicas.count(),
            ack_timeout: settings.ack_timeout,
            max_attempts: MAX_ATTEMPTS,
        };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            session_id: Uuid::new_v4().to_string(),
            classes,
            image_size,
            started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            commanded_unix_ms: None,
            dispatcher: Dispatcher::new(timing),
            open: BTreeMap::new(),
            // A loader that was restarted must not use the numbers of its predecessor: the other nodes drop windows that
            // they have had before.
            next_segment: i64::try_from(started.as_micros()).unwrap_or(0),
            unconfirmed: BTreeMap::new(),
            writer_id: None,
            replicas,
            announced: Instant::now(),
        }
    }

    /// Run of the dataflow.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// Number of open cases.
    pub fn open_cases(&self) -> usize {
        self.open.len()
    }

    /// Names of the open cases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.open.values().map(OpenCase::name)
    }

    /// Whether everything that was announced is acknowledged.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty() && self.unconfirmed.is_empty()
    }

    /// Takes a message of the writer (`ack`) or of a node between (`status`).
    ///
    /// # Errors
    /// A message that violates the contract.
    pub fn on_input(&mut self, node: &mut DoraNode, id: &str, array: &ArrayRef) -> Result<Vec<News>> {
        let json = text(array).wrap_err_with(|| format!("input `{id}`"))?;
        if id != "ack" {
            return Ok(self.on_status(from_json(json).wrap_err_with(|| format!("input `{id}`"))?));
        }
        let AckMessage { writer_id, ack } = from_json(json).wrap_err("input `ack`")?;
        let mut news = Vec::new();
        if self.writer_id.as_ref() != Some(&writer_id) {
            if self.writer_id.is_some() {
                tracing::warn!("the writer has restarted: its open cases are sent again");
                self.dispatcher.restart();
                for case in self.open.values() {
                    send_case(node, &case.message)?;
                }
                self.repeat_control(node, Duration::ZERO)?;
                news.push(News::WriterRestarted);
            }
            self.writer_id = Some(writer_id);
        }
        match ack {
            Ack::Located { first_segment, found, .. } => self.on_located(node, first_segment, found)?,
            ack => news.extend(self.on_ack(ack)),
        }
        Ok(news)
    }

    fn on_status(&mut self, status: Status) -> Vec<News> {
        let now = Instant::now();
        status.segments.into_iter().for_each(|segment| self.dispatcher.alive(segment, now));
        let failed = status.failed.into_iter().filter(|(segment, _)| self.dispatcher.is_open(*segment));
        let news = failed.filter_map(|(segment, error)| {
            let (_, case) = self.open.range(..=segment).next_back()?;
            Some(News::Unsegmentable { case_id: case.name().to_owned(), error })
        });
        news.collect()
    }

    fn on_ack(&mut self, ack: Ack) -> Option<News> {
        match ack {
            Ack::Hello | Ack::Located { .. } => None,
            Ack::Segment(segment) => {
                self.dispatcher.acknowledge(segment, Instant::now());
                self.replicas.forget(|other| other == segment);
                None
            }
            Ack::Working(segments) => {
                segments.into_iter().for_each(|segment| self.dispatcher.alive(segment, Instant::now()));
                None
            }
            Ack::Case(case_id) => {
                self.unconfirmed.remove(&case_id);
                self.close(&case_id);
                Some(News::Written(case_id))
            }
            Ack::Shown { case_id, bounds } => {
                self.unconfirmed.remove(&case_id);
                self.close(&case_id);
                Some(News::Shown { case_id, bounds })
            }
            Ack::CaseFailed { case_id, error } => {
                tracing::error!("{error}");
                tell(&Notice::CaseFailed { case_id: case_id.clone(), error: error.clone() });
                self.close(&case_id);
                Some(News::Refused { case_id, error })
            }
            Ack::End => Some(News::End(None)),
            Ack::EndFailed(error) => Some(News::End(Some(error))),
        }
    }

    /// Announces a case, number `index` of `cases`, and queues its windows: at first those of the pass that finds the place
    /// of the classes, if the plan has one and the case is not provisional.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn open_case(
        &mut self,
        node: &mut DoraNode,
        (plan, prepared): (CasePlan, PreparedCase),
        place: (usize, usize),
        live: Option<LiveCase>,
    ) -> Result<()> {
        let is_provisional = live.as_ref().is_some_and(|live| live.provisional);
        match plan.search().filter(|_| !is_provisional) {
            None => self.open_pass(node, (plan, prepared), place, live, None, is_provisional),
            Some(mut search) => {
                search.files.case_id = search_name(&plan.files.case_id);
                let prepared = prepared.with_plan(search.clone());
                let second = Second { plan, place, live };
                self.open_pass(node, (search, prepared), place, None, Some(second), false)
            }
        }
    }

    /// Opens the second pass over a case, around what the first has found.
    fn on_located(&mut self, node: &mut DoraNode, first: i64, found: Option<VoxelBox>) -> Result<()> {
        if self.open.get(&first).is_none_or(|case| case.second.is_none()) {
            return Ok(()); // answered before, or planned anew since
        }
        let Some(OpenCase { prepared, second: Some(second), .. }) = self.open.remove(&first) else {
            return Ok(());
        };
        self.dispatcher.close_case(first);
        let plan = second.plan.around(found);
        let (windows, all) = (plan.windows().len(), second.plan.windows().len());
        tracing::info!("case {}: {windows} of {all} windows, found {found:?}", plan.files.case_id.as_str());
        let prepared = prepared.with_plan(plan.clone());
        // Before the cases behind it.
        self.open_pass(node, (plan, prepared), second.place, second.live, None, true)
    }

    fn open_pass(
        &mut self,
        node: &mut DoraNode,
        (plan, prepared): (CasePlan, PreparedCase),
        (index, cases): (usize, usize),
        live: Option<LiveCase>,
        second: Option<Second>,
        is_urgent: bool,
    ) -> Result<()> {
        let first = self.next_segment;
        let windows = plan.windows().len();
        self.next_segment += windows as i64;
        let message = CaseMessage::Open(Box::new(CaseOpen {
            session_id: self.session_id.clone(),
            first_segment: first,
            index,
            cases,
            classes: self.classes.clone(),
            started_unix_ms: self.started_unix_ms,
            commanded_unix_ms: self.commanded_unix_ms,
            plan: plan.clone(),
            live,
            search: second.is_some(),
        }));
        send_case(node, &message)?;
        tracing::debug!("case {}: {windows} windows", plan.files.case_id.as_str());
        match is_urgent {
            true => self.dispatcher.open_urgent_case(first, windows),
            false => self.dispatcher.open_case(first, windows),
        }
        self.open.insert(first, OpenCase { message, plan, prepared, second });
        Ok(())
    }

    /// Gives up a case and reports it to the user and to the writer.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn fail(&mut self, node: &mut DoraNode, case_id: String, error: String) -> Result<()> {
        tracing::error!("{error}");
        tell(&Notice::CaseFailed { case_id: case_id.clone(), error: error.clone() });
        self.close(&case_id);
        self.announce(node, case_id.clone(), CaseMessage::Failed { case_id, error })
    }

    /// Gives up a case of which nobody need hear.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn drop_case(&mut self, node: &mut DoraNode, case_id: String) -> Result<()> {
        self.close(&case_id);
        self.announce(node, case_id.clone(), CaseMessage::Dropped { case_id })
    }

    /// Sends a message about a case without windows, and repeats it until the writer has answered.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn announce(&mut self, node: &mut DoraNode, case_id: String, message: CaseMessage) -> Result<()> {
        send_case(node, &message)?;
        self.unconfirmed.insert(case_id, (message, Instant::now()));
        Ok(())
    }

    fn close(&mut self, case_id: &str) {
        let is_meant = |case: &OpenCase| case.name() == case_id;
        let first = self.open.iter().find(|(_, case)| is_meant(case)).map(|(&first, _)| first);
        if let Some(first) = first {
            self.open.remove(&first);
            self.dispatcher.close_case(first);
            self.replicas.forget(|segment| !self.dispatcher.is_open(segment));
        }
    }

    /// Repeats what has not been answered; called every second.
    ///
    /// # Errors
    /// dora takes no messages.
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

    /// Sends the windows that are due. Returns cases of which a window was lost too often, with the error; they are
    /// still open.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn send_windows(&mut self, node: &mut DoraNode) -> Result<Vec<(String, String)>> {
        let mut given_up = Vec::new();
        loop {
            match self.dispatcher.next(Instant::now()) {
                Action::Wait => return Ok(given_up),
                Action::Send { segment, attempt } => self.send_window(node, segment, attempt)?,
                Action::GiveUp { case } => {
                    let case_id = self.open.get(&case).map(|case| case.name().to_owned()).unwrap_or_default();
                    let error = format!("case {case_id}: a window was lost {MAX_ATTEMPTS} times");
                    self.dispatcher.close_case(case);
                    given_up.push((case_id, error));
                }
            }
        }
    }

    fn send_window(&mut self, node: &mut DoraNode, segment: i64, attempt: i64) -> Result<()> {
        let Some((&first, case)) = self.open.range(..=segment).next_back() else { return Ok(()) };
        let case_id = case.plan.files.case_id.as_str();
        if attempt > 0 {
            tracing::warn!("case {case_id}: window {} is sent again ({attempt})", segment - first);
            send_case(node, &case.message)?;
        }
        let window = usize::try_from(segment - first)?;
        let header = SliceHeader {
            session_id: self.session_id.clone(),
            segment_id: segment,
            attempt,
            seq: 0,
            count: 0,
            case_id: case_id.to_owned(),
            classes: self.classes.len() as i64,
            image_size: Some(self.image_size),
            level: None,
            slices: None,
            covered: case.plan.covered(window),
            times: NodeTimes::new(),
            shape: Vec::new(),
        };
        let outputs = self.replicas.deal(segment);
        send_slices(node, header, (&case.prepared, window), outputs, case.is_live())
    }
}
