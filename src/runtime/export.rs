//! The writer's second thread: writes label maps, metrics and report of complete cases, and then sends their
//! acknowledgements.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use eyre::{Report, eyre};
use ndarray::Array3;
use tokio::sync::mpsc::UnboundedSender;

use super::stage::panic_text;
use super::startup::reason;
use super::writer::live::{self, ImageMask, Work, with_own};
use crate::message::control::{Ack, CaseOpen};
use crate::report::{Results, Wait};

/// A job for the exporter.
pub(super) enum Export {
    /// Write a complete case.
    Write {
        /// The case as it was announced.
        open: Box<CaseOpen>,
        /// Its labels `[x, y, z]` as stored.
        labels: Array3<u8>,
        /// Time spent on blending its windows.
        blending: Duration,
        /// What the other nodes have worked on it.
        work: Work,
        /// Slices segmented so far, of all cases.
        slices: usize,
    },
    /// The loader has given up a case.
    GivenUp {
        /// Name of the case.
        case_id: String,
        /// One line naming the file and the cause.
        error: String,
    },
    /// A case cannot be assembled.
    Failed {
        /// Name of the case.
        case_id: String,
        /// One line naming the case and the cause.
        error: String,
    },
    /// The loader asks again for a case that was handed over before.
    AnswerAgain {
        /// Name of the case.
        case_id: String,
    },
    /// Count the times of provisional masks.
    Latencies(Vec<Wait>),
    /// No case follows: write the report.
    End,
}

/// Messages of the writing threads to the I/O loop.
pub(super) enum Told {
    /// Send this acknowledgement.
    Ack(Ack),
    /// Send these masks.
    Masks(Vec<ImageMask>),
    /// This window is not being worked on, because its case is unknown. If the announcement was lost, the loader
    /// must not get a report of work, so that it sends both again.
    SetAside(i64),
}

/// Owns the results, and does its jobs in order.
pub(super) struct Exporter {
    results: Results,
    to_io: UnboundedSender<Told>,
    /// Cases that are written or failed, with the answer for when they are announced again.
    done: BTreeMap<String, Ack>,
}

impl Exporter {
    pub(super) fn new(results: Results, to_io: UnboundedSender<Told>) -> Self {
        Self { results, to_io, done: BTreeMap::new() }
    }

    pub(super) fn take(&mut self, export: Export) {
        match export {
            Export::Write { open, labels, blending, work, slices } => {
                self.results.exported(blending);
                self.write(&open, &labels, slices, (blending, work));
            }
            Export::GivenUp { case_id, error } => {
                if !self.done.contains_key(&case_id) {
                    self.results.add_failure(&case_id, &error);
                }
                self.close(case_id.clone(), Ack::Case(case_id));
            }
            Export::Failed { case_id, error } => self.fail(case_id, error),
            Export::AnswerAgain { case_id } => {
                if let Some(ack) = self.done.get(&case_id) {
                    self.answer(ack.clone());
                }
            }
            Export::Latencies(waits) => self.results.add_latencies(true, waits),
            Export::End => match self.results.finish() {
                Ok(()) => self.answer(Ack::End),
                Err(error) => self.answer(Ack::EndFailed(reason(&error))),
            },
        }
    }

    fn write(
        &mut self,
        open: &CaseOpen,
        labels: &Array3<u8>,
        slices: usize,
        (blending, work): (Duration, Work),
    ) {
        let case_id = open.plan.files.case_id.clone();
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.results.add_case(open, labels, slices)?;
            self.complete_live(open, labels, with_own(work, blending + started.elapsed()))
        }));
        let outcome = outcome.unwrap_or_else(|panic| Err::<(), Report>(eyre!("{}", panic_text(&*panic))));
        self.results.exported(started.elapsed());
        match outcome {
            Ok(()) => self.close(case_id.clone(), Ack::Case(case_id)),
            Err(error) => {
                let error = format!("case {case_id}: {}", reason(&error));
                self.fail(case_id, error);
            }
        }
    }

    /// Sends the masks of a complete live series. A receiver has no end, so the report is written with each series.
    fn complete_live(&mut self, open: &CaseOpen, labels: &Array3<u8>, work: Work) -> Result<(), Report> {
        let Some(live) = &open.live else { return Ok(()) };
        let (masks, waits) = live::masks(live, Some(labels), open.classes.len(), work);
        // As in `answer`.
        let _ = self.to_io.send(Told::Masks(masks));
        self.results.add_latencies(false, waits);
        self.results.finish_series()
    }

    fn fail(&mut self, case_id: String, error: String) {
        self.results.add_failure(&case_id, &error);
        self.close(case_id.clone(), Ack::CaseFailed { case_id, error });
    }

    fn close(&mut self, case_id: String, ack: Ack) {
        self.done.insert(case_id, ack.clone());
        self.answer(ack);
    }

    fn answer(&self, ack: Ack) {
        // The I/O loop ends only at exit.
        let _ = self.to_io.send(Told::Ack(ack));
    }
}
