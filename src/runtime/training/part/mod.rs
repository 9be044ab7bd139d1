//! A node with a part of the network: learns from the windows of a step, then updates the parameters.

mod learner;
mod learners;
mod learning;
#[cfg(test)]
mod testing;

pub use learner::Learner;
pub use learners::{DecoderLearner, EncoderLearner, GeneratorLearner};
use learning::{Done, Learning, Work};

use std::sync::mpsc;
use std::thread;

use arrow::array::ArrayRef;
use dora_node_api::{DoraNode, MetadataParameters};
use eyre::{Result, WrapErr, bail, eyre};
use tokio::sync::mpsc::unbounded_channel;

use super::{Closed, TrainingRun};
use crate::message::control::{Command, Progress, from_json, to_json};
use crate::message::{SliceHeader, encode_text, text};
use crate::runtime::assembly::{Assembler, Window};
use crate::runtime::events::{Flow, Happening, send, serve};
use crate::runtime::input::Input;
use crate::runtime::join::join;
use crate::runtime::stage::declared_outputs;
use crate::runtime::turns::Turns;
use crate::training::{Schedule, Stage, TrainingConfig};

/// Joins the dataflow and learns until the end of the run.
///
/// # Errors
/// A checkpoint of another network, frozen weights that have changed, or a node that ends before the run does.
pub fn run_part(run: &TrainingRun, mut learner: impl Learner) -> Result<()> {
    let mut first = 0;
    if let Some((manifest, shards)) = run.checkpoint()? {
        first = manifest.step;
        let name = learner.part().name().name();
        let Some(shard) = shards.get(name) else {
            bail!("the checkpoint of step {} has no shard of the {name}", manifest.step);
        };
        learner.part().restore(shard).map_err(|reason| eyre!("checkpoint: {reason}"))?;
    }
    let (mut node, mut events) = join()?;
    let config = run.config.clone();
    let joins = Joins::new(&config, [Stage::GeneratorOnly, Stage::Full].map(|stage| learner.tasks(stage)));
    let windows = config.schedule.windows_per_step as i64;
    let (to_compute, work) = mpsc::channel();
    let (to_io, results) = unbounded_channel();
    let outputs = declared_outputs(&node);
    let turns = Turns::new(Some(learner.network()), node.dataflow_id());
    thread::Builder::new().name("compute".into()).spawn(move || {
        Learning::new(learner, config, outputs, to_io, turns, first).serve(&work);
    })?;

    let mut desk = Desk { joins, windows, to_compute, working: 0, closed: Closed::default(), is_over: false };
    serve(&mut node, &mut events, results, |node, happening| {
        match happening {
            Happening::Input { id, array, .. } if id == "control" => desk.on_command(text(&array)?)?,
            Happening::Input { id, parameters, array } => match SliceHeader::parse(&parameters) {
                Err(error) => tracing::error!("input `{id}`: {error}"),
                Ok(header) => desk.on_slice(&id, header, &array)?,
            },
            Happening::Computed(done) => return desk.on_done(node, done),
            Happening::Tick => desk.on_tick(node)?,
            Happening::ComputeEnded => bail!("the compute thread has ended"),
            Happening::NodeFailed { .. } => {}
            Happening::InputClosed(id) => desk.closed.note(id),
            Happening::InputsClosed => desk.closed.note("control".into()),
            Happening::Stopped => return Ok(Flow::Finish),
        }
        Ok(Flow::Continue)
    })
}

/// The state of the event loop.
struct Desk {
    joins: Joins,
    /// Windows per step.
    windows: i64,
    to_compute: mpsc::Sender<Work>,
    /// Number of jobs that the compute thread has not done.
    working: usize,
    closed: Closed,
    /// Whether the end of the run has been announced.
    is_over: bool,
}

impl Desk {
    fn give(&mut self, work: Work) -> Result<()> {
        self.working += 1;
        self.to_compute.send(work).map_err(|_| eyre!("the compute thread has ended"))
    }

    fn on_command(&mut self, json: &str) -> Result<()> {
        let command = from_json(json)?;
        self.is_over |= command == Command::End;
        self.give(match command {
            Command::Save(step) => Work::Save(step),
            Command::End => Work::End,
        })
    }

    fn on_slice(&mut self, id: &str, header: SliceHeader, array: &ArrayRef) -> Result<()> {
        let step = u64::try_from(header.segment_id / self.windows)?;
        let complete = self.joins.add(id, step, header, array).wrap_err_with(|| format!("input `{id}`"))?;
        complete.into_iter().try_for_each(|(task, window)| self.give(Work::Window(task, Box::new(window))))
    }

    fn on_done(&mut self, node: &mut DoraNode, done: Done) -> Result<Flow> {
        match done {
            Done::Output(output) => output.send(node)?,
            Done::Report(progress) => report(node, &progress)?,
            Done::Work => self.working -= 1,
            Done::Ended(outcome) => {
                outcome?;
                return Ok(Flow::Finish);
            }
        }
        Ok(Flow::Continue)
    }

    fn on_tick(&self, node: &mut DoraNode) -> Result<()> {
        if self.working > 0 {
            report(node, &Progress::Working)?;
        }
        if self.is_over { Ok(()) } else { self.closed.check() }
    }
}

fn report(node: &mut DoraNode, progress: &Progress) -> Result<()> {
    send(node, "progress", MetadataParameters::new(), encode_text(&to_json(progress)?))
}

/// Joins messages into windows, with one join per task. The tasks differ between the stages.
struct Joins {
    schedule: Schedule,
    tasks: [&'static [&'static [Input]]; 2],
    stage: Stage,
    /// The newest step of which a message has arrived.
    step: u64,
    assemblers: Vec<Assembler>,
}

impl Joins {
    fn new(config: &TrainingConfig, tasks: [&'static [&'static [Input]]; 2]) -> Self {
        let mut joins = Self {
            schedule: config.schedule.clone(),
            tasks,
            stage: Stage::GeneratorOnly,
            step: 0,
            assemblers: Vec::new(),
        };
        joins.begin(Stage::GeneratorOnly);
        joins
    }

    fn begin(&mut self, stage: Stage) {
        self.stage = stage;
        self.assemblers = self.tasks().iter().map(|inputs| Assembler::new(inputs.to_vec())).collect();
    }

    fn tasks(&self) -> &'static [&'static [Input]] {
        self.tasks[usize::from(self.stage == Stage::Full)]
    }

    /// Adds a message of a step, and returns the windows that it completes, with their tasks. Incomplete windows of
    /// older steps are dropped.
    fn add(
        &mut self,
        id: &str,
        step: u64,
        header: SliceHeader,
        array: &ArrayRef,
    ) -> Result<Vec<(usize, Window)>> {
        if step < self.step {
            return Ok(Vec::new());
        }
        self.step = step;
        let stage = self.schedule.stage(step);
        if stage != self.stage {
            self.begin(stage);
        }
        let mut complete = Vec::new();
        for (task, inputs) in self.tasks().iter().enumerate() {
            if let Some(input) = inputs.iter().find(|input| input.name == id)
                && let Some(window) = self.assemblers[task].add(input, header.clone(), array)?
            {
                complete.push((task, window));
            }
        }
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{A, B, array, config, header};
    use super::*;

    #[test]
    fn joins_follow_the_stage_and_the_newest_attempt() {
        let tasks: [&'static [&'static [Input]]; 2] = [&[&[A]], &[&[A], &[B]]];
        let mut joins = Joins::new(&config(), tasks);
        let mut add = |id: &str, segment: i64, attempt: i64, seq: i64| {
            let step = u64::try_from(segment / 2).unwrap();
            let complete = joins.add(id, step, header(segment, attempt, seq, 2), &array(0.0)).unwrap();
            complete.into_iter().map(|(task, window)| (task, window.header.attempt)).collect::<Vec<_>>()
        };
        assert!(add("a", 0, 0, 0).is_empty());
        assert!(add("b", 0, 0, 0).is_empty() && add("b", 0, 0, 1).is_empty(), "no input of this stage");
        assert!(add("a", 0, 1, 0).is_empty(), "half of the first attempt does not count");
        assert!(add("a", 0, 0, 1).is_empty());
        assert_eq!(add("a", 0, 1, 1), [(0, 1)]);
        assert!(add("b", 2, 0, 0).is_empty());
        assert_eq!(add("b", 2, 0, 1), [(1, 0)]);
        assert!(add("a", 1, 0, 0).is_empty() && add("a", 1, 0, 1).is_empty(), "the step before is over");
    }
}
