//! A node with a part of the network: learns from the windows of a step, then updates its parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use arrow::array::ArrayRef;
use dora_node_api::{DoraNode, MetadataParameters};
use eyre::{Result, WrapErr, bail, eyre};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Closed, TrainingRun};
use crate::message::control::{Command, Progress, from_json, to_json};
use crate::message::{SliceHeader, encode_text, text};
use crate::runtime::assembly::{Assembler, Input, Window};
use crate::runtime::events::{Flow, Happening, send, serve};
use crate::runtime::stage::{Emit, Output, declared_outputs, panic_text};
use crate::runtime::startup::one_line;
use crate::training::{Part, Schedule, Stage, TrainingConfig, TrainingError};

/// A part of the network as its node learns with it.
pub trait Learner: Send + 'static {
    /// Its parameters.
    fn part(&mut self) -> &mut Part;

    /// What is done with each window, in this order, by the inputs that it takes; nothing while the part rests.
    fn tasks(&self, stage: Stage) -> &'static [&'static [Input]];

    /// Does a task and gives the window's loss (0 where there is none). `share` is the window's part of the step.
    ///
    /// # Errors
    /// What makes the training impossible.
    fn learn(
        &mut self,
        task: usize,
        window: &Window,
        stage: Stage,
        share: f64,
        emit: &mut Emit<'_>,
    ) -> Result<f64>;
}

/// For the compute thread.
enum Work {
    Window(usize, Window),
    Save(u64),
    End,
}

/// From the compute thread.
enum Done {
    Output(Output),
    Report(Progress),
    /// A piece of work is done.
    Work,
    /// Everything is done.
    Ended(Result<(), TrainingError>),
}

/// Joins the dataflow and learns until the end of the run.
///
/// # Errors
/// A checkpoint of another network, frozen weights that have changed, a node that ends before the run does.
pub fn run_part(run: &TrainingRun, mut learner: impl Learner) -> Result<()> {
    if let Some((manifest, shards)) = run.checkpoint()? {
        let name = learner.part().name().name();
        let Some(shard) = shards.get(name) else {
            bail!("the checkpoint of step {} has no shard of the {name}", manifest.step);
        };
        learner.part().restore(shard).map_err(|reason| eyre!("checkpoint: {reason}"))?;
    }
    let (mut node, mut events) =
        DoraNode::init_from_env().map_err(|error| eyre!("joining the dataflow: {error}"))?;
    let config = run.config.clone();
    let windows = config.schedule.windows_per_step as i64;
    let mut joins = Joins::new(&config, [Stage::GeneratorOnly, Stage::Full].map(|stage| learner.tasks(stage)));
    let (to_compute, work) = mpsc::channel();
    let (to_io, results) = unbounded_channel();
    let outputs = declared_outputs(&node);
    thread::Builder::new().name("compute".into()).spawn(move || {
        let mut learning = Learning {
            learner,
            config,
            outputs,
            to_io,
            step: None,
            early: BTreeMap::new(),
            turn: Vec::new(),
            given: BTreeMap::new(),
            loss: 0.0,
            report: None,
        };
        learning.serve(&work);
    })?;

    let mut working = 0usize;
    let mut closed = Closed::default();
    serve(&mut node, &mut events, results, |node, happening| {
        let mut give = |work| {
            working += 1;
            to_compute.send(work).map_err(|_| eyre!("the compute thread has ended"))
        };
        match happening {
            Happening::Input { id, array, .. } if id == "control" => {
                give(match from_json(text(&array)?)? {
                    Command::Save(step) => Work::Save(step),
                    Command::End => Work::End,
                })?;
            }
            Happening::Input { id, parameters, array } => match SliceHeader::parse(&parameters) {
                Err(error) => tracing::error!("input `{id}`: {error}"),
                Ok(header) => {
                    let step = header.segment_id / windows;
                    let complete = joins
                        .add(&id, u64::try_from(step)?, header, &array)
                        .wrap_err_with(|| format!("input `{id}`"))?;
                    for (task, window) in complete {
                        give(Work::Window(task, window))?;
                    }
                }
            },
            Happening::Computed(Done::Output(output)) => output.send(node)?,
            Happening::Computed(Done::Report(progress)) => report(node, &progress)?,
            Happening::Computed(Done::Work) => working -= 1,
            Happening::Computed(Done::Ended(outcome)) => {
                outcome?;
                return Ok(Flow::Finish);
            }
            Happening::Tick => {
                if working > 0 {
                    report(node, &Progress::Working)?;
                }
                closed.check()?;
            }
            Happening::ComputeEnded => bail!("the compute thread has ended"),
            Happening::InputClosed(id) => closed.note(id),
            Happening::InputsClosed => closed.note("control".into()),
            // The writer ends the run as soon as a checkpoint is written.
            Happening::Stopped => {}
        }
        Ok(Flow::Continue)
    })
}

fn report(node: &mut DoraNode, progress: &Progress) -> Result<()> {
    send(node, "progress", MetadataParameters::new(), encode_text(&to_json(progress)?))
}

/// Joins messages to windows, one join a task; the tasks differ between the stages.
struct Joins {
    schedule: Schedule,
    tasks: [&'static [&'static [Input]]; 2],
    stage: Stage,
    /// Newest step that anything has come of.
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

    /// Takes a message of a step in; the windows that it completes, with their tasks. What is left of an older step is
    /// dropped.
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

/// The compute thread.
struct Learning<L> {
    learner: L,
    config: TrainingConfig,
    outputs: BTreeSet<String>,
    to_io: UnboundedSender<Done>,
    /// The step that is learned from, or was last.
    step: Option<u64>,
    /// Windows that came before their turn: windows are taken in their order, so that sums are those of one process.
    early: BTreeMap<(usize, i64), Window>,
    /// Segment whose turn it is, by task.
    turn: Vec<i64>,
    /// What each task gave for each window of the step.
    given: BTreeMap<(usize, i64), Vec<Output>>,
    loss: f64,
    /// What was reported of the step, once it is made.
    report: Option<Progress>,
}

impl<L: Learner> Learning<L> {
    fn serve(&mut self, work: &mpsc::Receiver<Work>) {
        for work in work {
            let is_end = matches!(work, Work::End);
            let outcome = catch_unwind(AssertUnwindSafe(|| match work {
                Work::Window(task, window) => self.window(task, window),
                Work::Save(step) => self.save(step),
                Work::End => Ok(()),
            }));
            let outcome = outcome.unwrap_or_else(|panic| Err(eyre!("{}", panic_text(&*panic))));
            if let Err(error) = outcome {
                self.tell(Done::Report(Progress::Failed(one_line(&format!("{error:#}")))));
            }
            self.tell(Done::Work);
            if is_end {
                let outcome = self.learner.part().check_frozen();
                self.tell(Done::Ended(outcome));
                return;
            }
        }
    }

    fn tell(&self, done: Done) {
        // The I/O loop outlives this thread except at exit, when nobody waits.
        let _ = self.to_io.send(done);
    }

    fn windows(&self) -> i64 {
        self.config.schedule.windows_per_step as i64
    }

    fn window(&mut self, task: usize, window: Window) -> Result<()> {
        let segment = window.header.segment_id;
        let step = u64::try_from(segment / self.windows())?;
        if self.step.is_some_and(|current| step < current) {
            return Ok(());
        }
        if self.step != Some(step) {
            self.begin(step)?;
        }
        if let Some(given) = self.given.get(&(task, segment)) {
            // It was sent again, as something after it was lost.
            for output in given {
                let mut output = output.clone();
                output.header.attempt = window.header.attempt;
                self.tell(Done::Output(output));
            }
            if let Some(report) = &self.report {
                self.tell(Done::Report(report.clone()));
            }
            return Ok(());
        }
        self.early.insert((task, segment), window);
        while let Some(window) = self.early.remove(&(task, self.turn[task])) {
            self.learn(task, &window)?;
            self.turn[task] += 1;
        }
        Ok(())
    }

    fn begin(&mut self, step: u64) -> Result<()> {
        if let Some(current) = self.step
            && (self.report.is_none() || step != current + 1)
        {
            let stage = self.config.schedule.stage(current);
            if !self.learner.tasks(stage).is_empty() {
                bail!("step {step} has come, but step {current} is not finished");
            }
        }
        let tasks = self.learner.tasks(self.config.schedule.stage(step));
        self.turn = vec![i64::try_from(step)? * self.windows(); tasks.len()];
        self.step = Some(step);
        self.early.clear();
        self.given.clear();
        self.loss = 0.0;
        self.report = None;
        Ok(())
    }

    fn learn(&mut self, task: usize, window: &Window) -> Result<()> {
        let step = self.step.unwrap_or_default();
        let stage = self.config.schedule.stage(step);
        let (segment, windows) = (window.header.segment_id, self.windows());
        let share = 1.0 / windows as f64;
        let mut given = Vec::new();
        let mut sink = |output: Output| given.push(output);
        let emit = &mut Emit::new(&self.outputs, &mut sink);
        let loss = self.learner.learn(task, window, stage, share, emit)?;
        // Before anybody is given what is no number.
        finite(step, "the loss", loss)?;
        given.iter().for_each(|output| self.tell(Done::Output(output.clone())));
        self.loss += share * loss;
        self.given.insert((task, segment), given);
        let is_last_task = task + 1 == self.learner.tasks(stage).len();
        if is_last_task && segment + 1 == (i64::try_from(step)? + 1) * windows {
            self.update(step)?;
        }
        Ok(())
    }

    fn update(&mut self, step: u64) -> Result<()> {
        let gradient_norm = self.learner.part().gradient_norm();
        finite(step, "the norm of the gradients", gradient_norm)?;
        let learning_rate = self.config.learning_rate.at(step, &self.config.schedule);
        self.learner.part().update(learning_rate, gradient_norm);
        let report = Progress::Learned { step, loss: self.loss, gradient_norm };
        self.report = Some(report.clone());
        self.tell(Done::Report(report));
        Ok(())
    }

    fn save(&mut self, step: u64) -> Result<()> {
        let part = self.learner.part();
        let saved = self.config.checkpoints().write_shard(step, part.name().name(), &part.shard());
        self.tell(Done::Report(match saved {
            Ok(sha256) => Progress::Saved { step, sha256 },
            Err(error) => Progress::NotSaved { step, error: error.to_string() },
        }));
        Ok(())
    }
}

fn finite(step: u64, what: &'static str, value: f64) -> Result<(), TrainingError> {
    if value.is_finite() { Ok(()) } else { Err(TrainingError::NotFinite { step, what, value }) }
}
