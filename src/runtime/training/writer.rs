//! The writer in training: leads the run, and writes everything except the shards.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dora_node_api::{DoraNode, MetadataParameters};
use eyre::{Result, bail, eyre};
use tokio::sync::mpsc::unbounded_channel;

use super::keeper::{Keeper, Reply, Task};
use super::{STOP_FILE, TrainingRun};
use crate::compute::Compute;
use crate::message::control::{Command, Order, Progress, Status, Supply, from_json, to_json};
use crate::message::{encode_text, text};
use crate::runtime::events::{Flow, Happening, send, serve};
use crate::runtime::join::{Leave, join};
use crate::runtime::number;
use crate::runtime::threads::compute_here;
use crate::training::{Course, PartName, Stage, StepReport, TrainingConfig, divide};

/// The run ends if the messages of a step are lost this often.
const MAX_ATTEMPTS: i64 = 6;
/// How long the other nodes may take to exit after the end of the run.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// Joins the dataflow and leads the run to its end, or until it is asked to stop.
///
/// # Errors
/// Any error that prevents a node from continuing; the run can be resumed from the newest complete checkpoint.
pub fn run_writer(run: &TrainingRun, compute: Compute) -> Result<()> {
    let config = run.config.clone();
    let (course, last) = Course::begin(&config, &divide(&config)?, run.resume)?;
    let first = last.map_or(0, |(manifest, _)| manifest.step);
    let output = config.output.clone();
    let stop_file = output.join(STOP_FILE);
    let ack_timeout = Duration::from_secs(number("SPSAM_ACK_TIMEOUT_SECS", 10)?.max(1) as u64);

    let stop = Arc::new(AtomicBool::new(false));
    let (to_course, tasks) = mpsc::channel();
    let (to_io, replies) = unbounded_channel();
    let (course_config, course_stop) = (config.clone(), stop.clone());
    thread::Builder::new().name("course".into()).spawn(move || {
        compute_here();
        Keeper::new(course_config, compute, course, course_stop).serve(&tasks, &to_io);
    })?;

    let (mut node, mut events) = join()?;
    let mut lead =
        Lead { config, step: first, phase: Phase::Begin, ack_timeout, sign: Instant::now(), stop, to_course };
    serve(&mut node, &mut events, replies, |node, happening| {
        match happening {
            Happening::Input { id, array, .. } => lead.on_input(node, &id, text(&array)?)?,
            Happening::Computed(reply) => lead.on_reply(node, reply)?,
            Happening::Tick => {
                if stop_file.exists() {
                    let _ = fs::remove_file(&stop_file);
                    lead.ask_to_stop();
                }
                lead.on_tick(node)?;
            }
            Happening::ComputeEnded => bail!("the course thread has ended"),
            Happening::NodeFailed { .. } => {}
            Happening::InputClosed(id) => lead.on_closed(&id)?,
            Happening::InputsClosed if lead.is_leaving() => return Ok(Flow::Finish),
            Happening::InputsClosed => {
                bail!(Leave::EndedEarly("all nodes have ended before the training".into()))
            }
            Happening::Stopped => bail!(
                "stopped by dora without a checkpoint; a file `{STOP_FILE}` in {} stops the run with one",
                output.display()
            ),
        }
        Ok(if lead.is_over() { Flow::Finish } else { Flow::Continue })
    })?;
    Ok(())
}

/// The phase of the run.
enum Phase {
    /// Nothing has been ordered yet.
    Begin,
    /// The parts are learning.
    Learning { attempt: i64, since: Instant, waited: f64, learned: BTreeMap<PartName, (f64, f64)> },
    /// The parts are writing their shards.
    Saving { attempt: i64, shards: BTreeMap<String, String> },
    /// The course thread is validating and writing.
    Writing,
    /// All nodes have been told that the run is over.
    Leaving { since: Instant, left: usize },
}

/// Leads the run.
struct Lead {
    config: TrainingConfig,
    /// Steps done.
    step: u64,
    phase: Phase,
    ack_timeout: Duration,
    /// When a node last reported work.
    sign: Instant,
    stop: Arc<AtomicBool>,
    to_course: mpsc::Sender<Task>,
}

impl Lead {
    fn ask_to_stop(&self) {
        if !self.stop.swap(true, Ordering::Relaxed) {
            tracing::info!("stopping after this step");
        }
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Number of parts that are trained in the present stage.
    fn learning_parts(&self) -> usize {
        match self.config.schedule.stage(self.step) {
            Stage::GeneratorOnly => 2,
            Stage::Full => 3,
        }
    }

    fn on_input(&mut self, node: &mut DoraNode, id: &str, json: &str) -> Result<()> {
        self.sign = Instant::now();
        if id == "supply" {
            return match from_json(json)? {
                Supply::Working => Ok(()),
                Supply::Failed(error) => bail!("{error}"),
                Supply::Sent { step, waited: seconds } => {
                    if let Phase::Learning { waited, .. } = &mut self.phase
                        && step == self.step
                    {
                        *waited = seconds;
                    }
                    Ok(())
                }
            };
        }
        if id.starts_with("status") {
            let Status { failed, .. } = from_json(json)?;
            return match failed.into_iter().next() {
                Some((_, error)) => bail!("{error}"),
                None => Ok(()),
            };
        }
        let part = PartName::ALL.into_iter().find(|part| id == format!("progress_{}", part.name()));
        let part = part.ok_or_else(|| eyre!("input `{id}` is none that the writer knows in training"))?;
        self.on_progress(node, part, from_json(json)?)
    }

    /// What a part has learned or saved.
    fn on_progress(&mut self, node: &mut DoraNode, part: PartName, progress: Progress) -> Result<()> {
        match progress {
            Progress::Working => {}
            Progress::Failed(error) => bail!("{}: {error}", part.name()),
            Progress::Learned { step, loss, gradient_norm } => {
                if let Phase::Learning { learned, .. } = &mut self.phase
                    && step == self.step
                {
                    learned.insert(part, (loss, gradient_norm));
                    if learned.len() == self.learning_parts() {
                        self.step_is_made(node)?;
                    }
                }
            }
            Progress::Saved { step, sha256 } => {
                if let Phase::Saving { shards, .. } = &mut self.phase
                    && step == self.step
                {
                    shards.insert(part.name().into(), sha256);
                    if shards.len() == PartName::ALL.len() {
                        let shards = std::mem::take(shards);
                        self.give(Task::Written { step, shards })?;
                        self.phase = Phase::Writing;
                    }
                }
            }
            Progress::NotSaved { step, error } => {
                if matches!(self.phase, Phase::Saving { .. }) && step == self.step {
                    if self.config.schedule.due(step).end || self.stops() {
                        bail!("{error}");
                    }
                    tracing::error!("{error}; the training goes on, the newest checkpoint is the one before");
                    self.order(node, 0)?;
                }
            }
        }
        Ok(())
    }

    fn give(&self, task: Task) -> Result<()> {
        self.to_course.send(task).map_err(|_| eyre!("the course thread has ended"))
    }

    /// All parts have learned from the step.
    fn step_is_made(&mut self, node: &mut DoraNode) -> Result<()> {
        let Phase::Learning { since, waited, learned, .. } = &self.phase else { return Ok(()) };
        let of = |part| learned.get(&part).copied();
        let norm = |part| of(part).map_or(0.0, |(_, norm)| norm);
        let report = StepReport {
            step: self.step,
            auxiliary_loss: of(PartName::Generator).map_or(0.0, |(loss, _)| loss),
            final_loss: of(PartName::Decoder).map(|(loss, _)| loss),
            learning_rate: self.config.learning_rate.at(self.step, &self.config.schedule),
            gradient_norms: PartName::ALL.map(norm),
        };
        self.give(Task::Learned { report, seconds: since.elapsed().as_secs_f64(), waited: *waited })?;
        self.step += 1;
        let due = self.config.schedule.due(self.step);
        if due.checkpoint || due.validation || self.stops() {
            return self.save(node, 0);
        }
        self.order(node, 0)
    }

    fn order(&mut self, node: &mut DoraNode, attempt: i64) -> Result<()> {
        if attempt == 0 {
            self.phase =
                Phase::Learning { attempt, since: Instant::now(), waited: 0.0, learned: BTreeMap::new() };
        }
        self.sign = Instant::now();
        let order = Order::Step { step: self.step, attempt };
        send(node, "order", MetadataParameters::new(), encode_text(&to_json(&order)?))
    }

    fn save(&mut self, node: &mut DoraNode, attempt: i64) -> Result<()> {
        if attempt == 0 {
            self.phase = Phase::Saving { attempt, shards: BTreeMap::new() };
        }
        self.sign = Instant::now();
        command(node, Command::Save(self.step))
    }

    fn on_reply(&mut self, node: &mut DoraNode, reply: Reply) -> Result<()> {
        match reply {
            Reply::Failed(error) => return Err(error.into()),
            Reply::NotComplete(error) if self.stops() => return Err(error.into()),
            Reply::NotComplete(error) => {
                tracing::error!("{error}; the training goes on, the newest checkpoint is the one before");
            }
            Reply::Finished { bundle, best } => {
                let dice = best.map_or(String::new(), |best| format!(", Dice {:.4}", best.dice));
                tracing::info!("{}: trained `{}`{dice}", bundle.display(), self.config.model.name);
                return self.leave(node);
            }
            Reply::Complete => {}
        }
        if self.stops() {
            tracing::info!("stopped after step {}; it can be resumed", self.step);
            return self.leave(node);
        }
        self.order(node, 0)
    }

    fn leave(&mut self, node: &mut DoraNode) -> Result<()> {
        command(node, Command::End)?;
        send(node, "order", MetadataParameters::new(), encode_text(&to_json(&Order::End)?))?;
        self.phase = Phase::Leaving { since: Instant::now(), left: 0 };
        Ok(())
    }

    fn on_closed(&mut self, id: &str) -> Result<()> {
        match &mut self.phase {
            Phase::Leaving { left, .. } => {
                // Counts parts and loader; the extractor has no state to lose.
                *left += usize::from(id.starts_with("progress") || id == "supply");
                Ok(())
            }
            _ => {
                let error = format!("a node has ended before the training: input `{id}` is closed");
                bail!(Leave::EndedEarly(error))
            }
        }
    }

    fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
    }

    fn is_over(&self) -> bool {
        matches!(&self.phase, Phase::Leaving { since, left }
            if *left > PartName::ALL.len() || since.elapsed() > LEAVE_WITHIN)
    }

    fn on_tick(&mut self, node: &mut DoraNode) -> Result<()> {
        let silent = self.sign.elapsed();
        let patience = |attempt: i64| self.ack_timeout * 2u32.pow(attempt.clamp(0, 5) as u32);
        match &mut self.phase {
            Phase::Begin if self.config.schedule.due(self.step).end => self.save(node, 0),
            Phase::Begin => self.order(node, 0),
            Phase::Learning { attempt, .. } | Phase::Saving { attempt, .. }
                if silent > patience(*attempt) =>
            {
                *attempt += 1;
                let (attempt, step) = (*attempt, self.step);
                if attempt > MAX_ATTEMPTS {
                    bail!(
                        "step {step}: no node has worked on it for a long time, although it was sent again"
                    );
                }
                if matches!(self.phase, Phase::Saving { .. }) {
                    tracing::warn!("step {step}: the shards are requested again ({attempt})");
                    return self.save(node, attempt);
                }
                tracing::warn!("step {step} is sent again ({attempt})");
                self.order(node, attempt)
            }
            _ => Ok(()),
        }
    }
}

fn command(node: &mut DoraNode, command: Command) -> Result<()> {
    send(node, "control", MetadataParameters::new(), encode_text(&to_json(&command)?))
}
