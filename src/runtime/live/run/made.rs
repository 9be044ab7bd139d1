//! What the working threads have made.

use dora_node_api::DoraNode;
use eyre::Result;

use super::LiveRun;
use crate::message::control::CaseMessage;
use crate::runtime::live::complete::Complete;
use crate::runtime::live::provisional::Provisional;
use crate::runtime::live::series::Key;
use crate::runtime::live::work::Made;
use crate::runtime::startup::reason;

impl LiveRun {
    /// A worker has made something.
    ///
    /// # Errors
    /// dora takes no messages.
    pub fn on_made(&mut self, node: &mut DoraNode, made: Made) -> Result<()> {
        match made {
            Made::Provisional(key, cases) => self.on_provisional(node, &key, cases),
            Made::Divided(key, volumes) => self.on_divided(node, &key, volumes),
            // The series has ended meanwhile.
            Made::Prepared(files, ..) if !self.owners.contains_key(&files.case_id) => Ok(()),
            Made::Prepared(files, live, outcome) => match outcome {
                Ok(case) => {
                    tracing::info!("case {}: {} windows", files.case_id, case.0.windows().len());
                    self.delivery.open_case(node, *case, (0, 1), Some(live))
                }
                Err(error) => self.give_up(node, files.case_id, reason(&error)),
            },
        }
    }

    fn on_provisional(&mut self, node: &mut DoraNode, key: &Key, cases: Vec<Provisional>) -> Result<()> {
        let Some(series) = self.series.get_mut(key) else { return Ok(()) };
        series.is_making = false;
        series.bounds = None;
        for case in cases {
            match case {
                Provisional::Case(case, live) => {
                    let case_id = case.0.files.case_id.clone();
                    series.provisional.insert(case_id.clone());
                    self.owners.insert(case_id, key.clone());
                    self.delivery.open_case(node, *case, (0, 1), Some(live))?;
                }
                Provisional::Background(case_id, live) => {
                    series.provisional.insert(case_id.clone());
                    self.owners.insert(case_id.clone(), key.clone());
                    let classes = self.loader.classes.len();
                    let message = CaseMessage::Background { case_id: case_id.clone(), classes, live };
                    self.delivery.announce(node, case_id, message)?;
                }
                Provisional::Impossible(error) => tracing::warn!("no provisional masks: {error}"),
            }
        }
        Ok(())
    }

    fn on_divided(
        &mut self,
        node: &mut DoraNode,
        key: &Key,
        volumes: Vec<Result<Complete, (String, String)>>,
    ) -> Result<()> {
        let Some(series) = self.series.get_mut(key) else { return Ok(()) };
        series.is_divided = true;
        series.release();
        for volume in volumes {
            match volume {
                Ok(complete) => series.waiting.push_back(complete),
                Err((case_id, error)) => {
                    series.errors.push(error.clone());
                    self.delivery.fail(node, case_id, error)?;
                }
            }
        }
        if series.is_done() { self.finish(node, key) } else { Ok(()) }
    }
}
