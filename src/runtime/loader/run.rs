//! A run of the loader over the cases of its input.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use arrow::array::ArrayRef;
use dora_node_api::DoraNode;
use eyre::{Result, bail, eyre};

use super::Loader;
use super::delivery::{Delivery, News, REPEAT_AFTER};
use super::outgoing::send_case;
use crate::message::control::CaseMessage;
use crate::runtime::join::Leave;
use crate::runtime::startup::reason;
use crate::volume::{CasePlan, PreparedCase};

/// Most cases in memory: the one being sent, the one being read, and those waiting to be written.
const MAX_OPEN_CASES: usize = 3;

/// A run of the loader.
pub(super) struct Run {
    loader: Arc<Loader>,
    to_reader: mpsc::Sender<usize>,
    delivery: Delivery,
    requested: usize,
    prepared: usize,
    failures: BTreeMap<String, String>,
    end_sent: Option<Instant>,
    pub end_is_acknowledged: bool,
    /// Cases that the present writer has acknowledged, and those that an earlier one had.
    written: Vec<String>,
    written_before_restart: Vec<String>,
}

impl Run {
    pub fn new(loader: Arc<Loader>, to_reader: mpsc::Sender<usize>, delivery: Delivery) -> Self {
        Self {
            loader,
            to_reader,
            delivery,
            requested: 0,
            prepared: 0,
            failures: BTreeMap::new(),
            end_sent: None,
            end_is_acknowledged: false,
            written: Vec::new(),
            written_before_restart: Vec::new(),
        }
    }

    pub fn on_input(&mut self, node: &mut DoraNode, id: &str, array: &ArrayRef) -> Result<()> {
        for news in self.delivery.on_input(node, id, array)? {
            match news {
                News::Written(case_id) | News::Shown { case_id, .. } => self.written.push(case_id),
                News::Refused { case_id, error } => {
                    self.failures.insert(case_id, error);
                }
                News::Unsegmentable { case_id, error } => self.fail(node, case_id, error)?,
                News::WriterRestarted => self.written_before_restart.append(&mut self.written),
                News::End(error) => {
                    self.failures.extend(error.map(|error| ("report".into(), error)));
                    self.end_is_acknowledged = true;
                }
            }
        }
        Ok(())
    }

    pub fn on_prepared(
        &mut self,
        node: &mut DoraNode,
        index: usize,
        outcome: Result<(CasePlan, PreparedCase)>,
    ) -> Result<()> {
        self.prepared += 1;
        match outcome {
            Ok(case) => {
                tracing::info!("case {}: {} windows", case.0.files.case_id, case.0.windows().len());
                self.delivery.open_case(node, case, (index, self.loader.cases.len()), None)
            }
            Err(error) => self.fail(node, self.loader.cases[index].case_id.clone(), reason(&error)),
        }
    }

    fn fail(&mut self, node: &mut DoraNode, case_id: String, error: String) -> Result<()> {
        self.failures.insert(case_id.clone(), error.clone());
        self.delivery.fail(node, case_id, error)
    }

    pub fn on_tick(&mut self, node: &mut DoraNode) -> Result<()> {
        self.delivery.on_tick(node)?;
        if self.end_sent.is_some_and(|sent| sent.elapsed() > REPEAT_AFTER) {
            self.end_sent = None;
        }
        Ok(())
    }

    pub fn send_what_is_due(&mut self, node: &mut DoraNode) -> Result<()> {
        let waiting_for_reader = self.requested > self.prepared;
        let total = self.loader.cases.len();
        if !waiting_for_reader && self.requested < total && self.delivery.open_cases() < MAX_OPEN_CASES {
            self.to_reader.send(self.requested).map_err(|_| eyre!("the reader has ended"))?;
            self.requested += 1;
        }
        for (case_id, error) in self.delivery.send_windows(node)? {
            self.fail(node, case_id, error)?;
        }
        if self.prepared == total && self.delivery.is_complete() && self.end_sent.is_none() {
            send_case(node, &CaseMessage::End { cases: total })?;
            self.end_sent = Some(Instant::now());
        }
        Ok(())
    }

    pub fn ended_early(&self, why: &str) -> eyre::Report {
        let mut missing: Vec<&str> = self.delivery.names().collect();
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
