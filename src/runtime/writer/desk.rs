//! The thread that blends windows into label maps. Another thread writes files: meanwhile, windows of the next cases
//! are blended and acknowledged. The loader's limit on open cases bounds the number of waiting cases.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use eyre::{Result, bail, eyre};
use ndarray::{Array3, ArrayView4};
use tokio::sync::mpsc::UnboundedSender;

use super::LOGITS;
use super::live::{self, Work, with_own};
use crate::message::control::{Ack, CaseMessage, CaseOpen, LiveCase, search_name};
use crate::runtime::assembly::Window;
use crate::runtime::export::{Export, Told};
use crate::runtime::notice::{Notice, Progress, tell};
use crate::runtime::stage::panic_text;
use crate::tensor::view_values;
use crate::volume::{LabelAssembler, foreground_box};

/// How often progress is logged while windows arrive.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Most windows kept until their case is announced; further ones are dropped, and sent again.
const MAX_EARLY: usize = 16;
/// Complete cases of which nothing is written that are remembered. The loader has at most one for each open case or series.
const MAX_ANSWERED: usize = 256;

/// A message for the thread.
pub(super) enum Job {
    Case(CaseMessage),
    Window(Box<Window>),
}

struct OpenCase {
    open: CaseOpen,
    assembler: LabelAssembler,
    /// Time spent on its windows so far.
    blending: Duration,
    /// What the other nodes have worked on it so far.
    work: Work,
}

/// The state of the thread.
pub(super) struct Desk {
    to_export: mpsc::Sender<Export>,
    to_io: UnboundedSender<Told>,
    open: HashMap<String, OpenCase>,
    /// Cases that are complete or failed and have been passed to the exporter.
    closed: BTreeSet<String>,
    /// Windows that arrived before their case was announced, by segment.
    early: BTreeMap<i64, Window>,
    /// The newest complete cases of which nothing is written, provisional ones and first passes, with their answers.
    answered: VecDeque<(String, Ack)>,
    slices: usize,
    started: Option<Instant>,
    progress: Instant,
}

impl Desk {
    pub fn new(to_export: mpsc::Sender<Export>, to_io: UnboundedSender<Told>) -> Self {
        Self {
            to_export,
            to_io,
            open: HashMap::new(),
            closed: BTreeSet::new(),
            early: BTreeMap::new(),
            answered: VecDeque::new(),
            slices: 0,
            started: None,
            progress: Instant::now(),
        }
    }

    fn answer(&self, ack: Ack) {
        // The I/O loop ends only at exit.
        let _ = self.to_io.send(Told::Ack(ack));
    }

    fn export(&self, export: Export) {
        // The exporting thread ends only when this one does.
        let _ = self.to_export.send(export);
    }

    pub fn take(&mut self, job: Job) {
        match job {
            Job::Case(CaseMessage::Open(open)) => self.open_case(*open),
            Job::Case(CaseMessage::Failed { case_id, error }) => {
                self.forget(&case_id);
                self.closed.insert(case_id.clone());
                self.export(Export::GivenUp { case_id, error });
            }
            Job::Case(CaseMessage::Dropped { case_id }) => {
                self.forget(&case_id);
                if !self.answer_again(&case_id) {
                    self.remember(Ack::Shown { case_id: case_id.clone(), bounds: None }, case_id);
                }
            }
            Job::Case(CaseMessage::Background { case_id, classes, live }) => {
                if !self.answer_again(&case_id) {
                    self.show(case_id, &live, None, classes, Work::new());
                }
            }
            Job::Case(CaseMessage::End { .. }) => self.export(Export::End),
            Job::Window(window) => self.add_window(*window),
        }
    }

    /// Gives up both passes over a case.
    fn forget(&mut self, case_id: &str) {
        let first_pass = search_name(case_id);
        let is_of_it = |name: &str| name == case_id || name == first_pass;
        self.open.retain(|name, _| !is_of_it(name));
        self.early.retain(|_, window| !is_of_it(&window.header.case_id));
    }

    fn open_case(&mut self, open: CaseOpen) {
        let case_id = open.plan.files.case_id.clone();
        if self.closed.contains(&case_id) {
            return self.export(Export::AnswerAgain { case_id });
        }
        // What an earlier plan of the case has found is no answer to this one.
        let is_other = |ack: &Ack| matches!(ack, Ack::Located { first_segment, .. } if *first_segment != open.first_segment);
        self.answered.retain(|(name, ack)| *name != case_id || !is_other(ack));
        // A loader that was restarted announces its cases anew.
        let is_known = |known: &OpenCase| {
            known.open.session_id == open.session_id && known.open.first_segment == open.first_segment
        };
        if self.answer_again(&case_id) || self.open.get(&case_id).is_some_and(is_known) {
            return;
        }
        self.started.get_or_insert_with(Instant::now);
        let assembler = LabelAssembler::new(&open.plan, open.classes.len());
        self.open.insert(
            case_id.clone(),
            OpenCase { open, assembler, blending: Duration::ZERO, work: Work::new() },
        );
        let (early, others): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.early)
            .into_iter()
            .partition(|(_, window)| window.header.case_id == case_id);
        self.early = others;
        for window in early.into_values() {
            self.add_window(window);
        }
    }

    fn add_window(&mut self, window: Window) {
        let case_id = window.header.case_id.clone();
        let is_closed =
            self.closed.contains(&case_id) || self.answered.iter().any(|(answered, _)| *answered == case_id);
        if is_closed {
            return self.answer(Ack::Segment(window.header.segment_id));
        }
        let segment = window.header.segment_id;
        let is_of_another_run = |case: &OpenCase| case.open.session_id != window.header.session_id;
        if self.open.get(&case_id).is_some_and(is_of_another_run) {
            // Sent by a loader that has restarted since.
            return self.answer(Ack::Segment(segment));
        }
        if !self.open.contains_key(&case_id) {
            if self.early.len() < MAX_EARLY || self.early.contains_key(&segment) {
                self.early.insert(segment, window);
            }
            // As in `answer`.
            let _ = self.to_io.send(Told::SetAside(segment));
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.blend(&case_id, &window)))
            .unwrap_or_else(|panic| Err(eyre!("{}", panic_text(&*panic))));
        self.answer(Ack::Segment(segment));
        match outcome {
            Ok(false) => {}
            Ok(true) => self.close_case(case_id),
            Err(error) if self.writes_nothing(&case_id) => {
                tracing::warn!("case {case_id}, of which nothing is written: {error:#}");
                let ack = match self.open.remove(&case_id).filter(|case| case.open.search) {
                    Some(case) => Ack::Located {
                        case_id: case_id.clone(),
                        first_segment: case.open.first_segment,
                        found: None,
                    },
                    None => Ack::Shown { case_id: case_id.clone(), bounds: None },
                };
                self.remember(ack, case_id);
            }
            Err(error) => {
                self.open.remove(&case_id);
                self.closed.insert(case_id.clone());
                let error = format!("case {case_id}: {error:#}");
                self.export(Export::Failed { case_id, error });
            }
        }
    }

    /// Whether it is provisional or a first pass.
    fn writes_nothing(&self, case_id: &str) -> bool {
        let is_so = |open: &CaseOpen| open.search || open.live.as_ref().is_some_and(|live| live.provisional);
        self.open.get(case_id).is_some_and(|case| is_so(&case.open))
    }

    fn close_case(&mut self, case_id: String) {
        let Some(OpenCase { open, assembler, blending, work }) = self.open.remove(&case_id) else { return };
        let labels = assembler.finish();
        if let Some(live) = open.live.as_ref().filter(|live| live.provisional) {
            let work = with_own(work, blending);
            return self.show(case_id, live, Some(&labels), open.classes.len(), work);
        } else if open.search {
            let found = foreground_box(labels.view());
            let first_segment = open.first_segment;
            return self.remember(Ack::Located { case_id: case_id.clone(), first_segment, found }, case_id);
        }
        self.closed.insert(case_id);
        let slices = self.slices;
        self.export(Export::Write { open: Box::new(open), labels, blending, work, slices });
    }

    /// Sends the masks of a provisional case.
    fn show(
        &mut self,
        case_id: String,
        live: &LiveCase,
        labels: Option<&Array3<u8>>,
        classes: usize,
        work: Work,
    ) {
        let (masks, waits) = live::masks(live, labels, classes, work);
        // As in `answer`.
        let _ = self.to_io.send(Told::Masks(masks));
        self.export(Export::Latencies(waits));
        let found = labels.and_then(|labels| foreground_box(labels.view()));
        let bounds = found.map(|[columns, rows, _]| [columns, rows]);
        self.remember(Ack::Shown { case_id: case_id.clone(), bounds }, case_id);
    }

    /// Answers for a case of which nothing is written, and remembers the answer.
    fn remember(&mut self, ack: Ack, case_id: String) {
        self.answer(ack.clone());
        self.answered.push_back((case_id, ack));
        self.answered.drain(..self.answered.len().saturating_sub(MAX_ANSWERED));
    }

    /// Answers again for a case of which nothing is written; false if it is not complete.
    fn answer_again(&self, case_id: &str) -> bool {
        let answered = self.answered.iter().find(|(answered, _)| answered == case_id);
        if let Some((_, ack)) = answered {
            self.answer(ack.clone());
        }
        answered.is_some()
    }

    /// Blends a window into its case; returns true if the case is complete.
    fn blend(&mut self, case_id: &str, window: &Window) -> Result<bool> {
        let Some(case) = self.open.get_mut(case_id) else { return Ok(false) };
        let OpenCase { open, assembler, blending, work } = case;
        let started = Instant::now();
        let index = usize::try_from(window.header.segment_id - open.first_segment)?;
        let windows = open.plan.windows().len();
        if window.header.session_id != open.session_id || index >= windows {
            bail!("a window of another run arrived");
        }
        let logits = window.tensor(LOGITS.name, 0); // [D, N, H, W]
        let [depth, height, width] = open.plan.patch();
        let expected = [depth, open.classes.len(), height, width].map(|size| size as i64);
        if logits.size() != expected {
            bail!("logits have the shape {:?}, expected {expected:?}", logits.size());
        }
        view_values(&logits, |values: &[f32]| -> Result<()> {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                bail!("the logits of window {index} contain {value}");
            }
            let by_slice = ArrayView4::from_shape((depth, open.classes.len(), height, width), values)?;
            assembler.push(index, by_slice.permuted_axes([1, 0, 2, 3]))?;
            Ok(())
        })?;
        *blending += started.elapsed();
        for (node, [began_ns, sent_ns]) in &window.header.times {
            *work.entry(node.clone()).or_default() += sent_ns.saturating_sub(*began_ns) as f64 * 1e-9;
        }
        let missing = assembler.missing().len();
        self.slices += depth;
        self.report_progress(case_id, windows - missing, windows);
        Ok(missing == 0)
    }

    fn report_progress(&mut self, case_id: &str, arrived: usize, windows: usize) {
        let Some(case) = self.open.get(case_id) else { return };
        let seconds = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let rate = self.slices as f64 / seconds.max(1e-3);
        // The remaining time follows from the cases done and the part of this one, as a fraction of all cases.
        let share = (self.closed.len() as f64 + arrived as f64 / windows as f64) / case.open.cases as f64;
        let remaining = (seconds / share.max(1e-6) * (1.0 - share)).max(0.0) as u64;
        tell(&Notice::Progress(Progress {
            case_id: case_id.into(),
            cases_done: self.closed.len(),
            cases: case.open.cases,
            windows_done: arrived,
            windows,
            slices_per_second: rate,
            seconds_left: remaining,
        }));
        if arrived < windows && self.progress.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.progress = Instant::now();
        tracing::info!(
            "case {}/{} {case_id}: window {arrived}/{windows}, {rate:.1} slices/s, {:02}:{:02} left",
            self.closed.len() + 1,
            case.open.cases,
            remaining / 60,
            remaining % 60
        );
    }
}

#[cfg(test)]
mod tests;
