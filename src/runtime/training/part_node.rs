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
    Window(usize, Box<Window>),
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
    let mut first = 0;
    if let Some((manifest, shards)) = run.checkpoint()? {
        first = manifest.step;
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
    let mut joins =
        Joins::new(&config, [Stage::GeneratorOnly, Stage::Full].map(|stage| learner.tasks(stage)));
    let (to_compute, work) = mpsc::channel();
    let (to_io, results) = unbounded_channel();
    let outputs = declared_outputs(&node);
    thread::Builder::new().name("compute".into()).spawn(move || {
        let mut learning = Learning {
            learner,
            config,
            outputs,
            to_io,
            first,
            step: None,
            early: BTreeMap::new(),
            turn: Vec::new(),
            given: BTreeMap::new(),
            loss: 0.0,
            report: None,
            saved: None,
        };
        learning.serve(&work);
    })?;

    let mut working = 0usize;
    let mut closed = Closed::default();
    let mut is_over = false;
    serve(&mut node, &mut events, results, |node, happening| {
        let mut give = |work| {
            working += 1;
            to_compute.send(work).map_err(|_| eyre!("the compute thread has ended"))
        };
        match happening {
            Happening::Input { id, array, .. } if id == "control" => {
                let command = from_json(text(&array)?)?;
                is_over |= command == Command::End;
                give(match command {
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
                        give(Work::Window(task, Box::new(window)))?;
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
                if !is_over {
                    closed.check()?;
                }
            }
            Happening::ComputeEnded => bail!("the compute thread has ended"),
            Happening::InputClosed(id) => closed.note(id),
            Happening::InputsClosed => closed.note("control".into()),
            Happening::Stopped => return Ok(Flow::Finish),
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
    /// The step that the parameters are to learn from first.
    first: u64,
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
    /// The steps made before the last shard was written, and its sha256.
    saved: Option<(u64, String)>,
}

impl<L: Learner> Learning<L> {
    fn serve(&mut self, work: &mpsc::Receiver<Work>) {
        for work in work {
            let is_end = matches!(work, Work::End);
            let outcome = catch_unwind(AssertUnwindSafe(|| match work {
                Work::Window(task, window) => self.window(task, *window),
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
        let expected = self.expected();
        // A part that rests sees nothing of the steps until its time comes.
        let rested = self.learner.tasks(self.config.schedule.stage(expected)).is_empty() && step > expected;
        if step != expected && !rested {
            bail!("step {step} has come, but step {expected} is next");
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

    /// The step that comes next: the current one until it is made.
    fn expected(&self) -> u64 {
        self.step.map_or(self.first, |step| step + u64::from(self.report.is_some()))
    }

    fn save(&mut self, step: u64) -> Result<()> {
        if let Some((_, sha256)) = self.saved.as_ref().filter(|(saved, _)| *saved == step) {
            let sha256 = sha256.clone();
            self.tell(Done::Report(Progress::Saved { step, sha256 }));
            return Ok(());
        }
        let expected = self.expected();
        let rested = self.learner.tasks(self.config.schedule.stage(expected)).is_empty() && step > expected;
        if step != expected && !rested {
            bail!("the shard after {step} steps is asked for, but {expected} are made");
        }
        let part = self.learner.part();
        let saved = self.config.checkpoints().write_shard(step, part.name().name(), &part.shard());
        let report = match saved {
            Ok(sha256) => {
                self.saved = Some((step, sha256.clone()));
                Progress::Saved { step, sha256 }
            }
            Err(error) => Progress::NotSaved { step, error: error.to_string() },
        };
        self.tell(Done::Report(report));
        Ok(())
    }
}

fn finite(step: u64, what: &'static str, value: f64) -> Result<(), TrainingError> {
    if value.is_finite() { Ok(()) } else { Err(TrainingError::NotFinite { step, what, value }) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::{Device, Kind, Tensor};
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::compute::Compute;
    use crate::message::{WireKind, encode_tensor};
    use crate::runtime::assembly::InputKind;
    use crate::training::{OptimiserConfig, PartName, Rule, TrainingConfig};

    const A: Input = Input { name: "a", kind: InputKind::Floats };
    const B: Input = Input { name: "b", kind: InputKind::Floats };

    /// Learns one weight, whose gradient is the sum of what has come.
    struct Fake {
        part: Part,
        weight: Tensor,
        seen: Vec<(usize, i64)>,
    }

    impl Learner for Fake {
        fn part(&mut self) -> &mut Part {
            &mut self.part
        }

        fn tasks(&self, stage: Stage) -> &'static [&'static [Input]] {
            match stage {
                Stage::GeneratorOnly => &[&[A]],
                Stage::Full => &[&[A], &[B]],
            }
        }

        fn learn(
            &mut self,
            task: usize,
            window: &Window,
            _stage: Stage,
            share: f64,
            emit: &mut Emit<'_>,
        ) -> Result<f64> {
            self.seen.push((task, window.header.segment_id));
            let value = window.tensor([A.name, B.name][task], 0);
            (&self.weight * value * share).sum(Kind::Float).backward();
            emit.slices("out", &window.header, &self.weight.detach().view([1, 1]), WireKind::Float32, None);
            Ok(2.0)
        }
    }

    /// One step of the first stage, then the second; two windows a step.
    fn config() -> TrainingConfig {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus-scratch.yml");
        let mut config = TrainingConfig::open(&shipped).unwrap();
        config.schedule.iterations_per_epoch = 1;
        config.schedule.generator_only_epochs = 1;
        config.schedule.windows_per_step = 2;
        let rule = Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        config.optimiser = OptimiserConfig { rule, clip_norm: None };
        config
    }

    fn learning() -> (Learning<Fake>, UnboundedReceiver<Done>) {
        let config = config();
        let compute = Compute::fp32(Device::Cpu);
        let make = |_: &_, trained: &tch::nn::VarStore| trained.root().zeros("weight", &[1]);
        let (part, weight) = Part::new(PartName::Encoder, &config, compute, make).unwrap();
        let (to_io, results) = unbounded_channel();
        let learning = Learning {
            learner: Fake { part, weight, seen: Vec::new() },
            config,
            outputs: BTreeSet::from(["out".to_owned()]),
            to_io,
            first: 0,
            step: None,
            early: BTreeMap::new(),
            turn: Vec::new(),
            given: BTreeMap::new(),
            loss: 0.0,
            report: None,
            saved: None,
        };
        (learning, results)
    }

    fn header(segment_id: i64, attempt: i64, seq: i64, count: i64) -> SliceHeader {
        SliceHeader {
            session_id: "s".into(),
            segment_id,
            attempt,
            seq,
            count,
            case_id: "case".into(),
            classes: 2,
            level: None,
            shape: vec![1],
        }
    }

    fn array(value: f32) -> ArrayRef {
        encode_tensor(&Tensor::from_slice(&[value]), WireKind::Float32)
    }

    fn window(input: Input, segment: i64, attempt: i64) -> Window {
        let mut assembler = Assembler::new(vec![input]);
        assembler.add(&input, header(segment, attempt, 0, 1), &array(1.0)).unwrap().unwrap()
    }

    /// Attempts of the outputs and the reports since the last call.
    fn told(results: &mut UnboundedReceiver<Done>) -> (Vec<(i64, i64)>, Vec<Progress>) {
        let (mut outputs, mut reports) = (Vec::new(), Vec::new());
        while let Ok(done) = results.try_recv() {
            match done {
                Done::Output(output) => outputs.push((output.header.segment_id, output.header.attempt)),
                Done::Report(report) => reports.push(report),
                Done::Work | Done::Ended(_) => {}
            }
        }
        (outputs, reports)
    }

    #[test]
    fn windows_are_learned_from_in_their_order_and_the_step_is_made_once() {
        let (mut learning, mut results) = learning();
        learning.window(0, window(A, 1, 0)).unwrap();
        assert!(learning.learner.seen.is_empty() && told(&mut results).0.is_empty());
        learning.window(0, window(A, 0, 0)).unwrap();
        assert_eq!(learning.learner.seen, [(0, 0), (0, 1)]);
        let (outputs, reports) = told(&mut results);
        assert_eq!(outputs, [(0, 0), (1, 0)]);
        assert_eq!(reports, [Progress::Learned { step: 0, loss: 2.0, gradient_norm: 1.0 }]);
        let rate = learning.config.learning_rate.at(0, &learning.config.schedule);
        assert!((learning.learner.weight.double_value(&[0]) + rate).abs() < 1e-9);
    }

    #[test]
    fn what_is_sent_again_is_answered_again_and_not_learned_again() {
        let (mut learning, mut results) = learning();
        learning.window(0, window(A, 0, 0)).unwrap();
        learning.window(0, window(A, 0, 1)).unwrap();
        assert_eq!(told(&mut results), (vec![(0, 0), (0, 1)], Vec::new()), "the step is not made yet");
        learning.window(0, window(A, 1, 1)).unwrap();
        let (_, reports) = told(&mut results);
        let weight = learning.learner.weight.double_value(&[0]);
        for segment in [0, 1] {
            learning.window(0, window(A, segment, 2)).unwrap();
            assert_eq!(told(&mut results), (vec![(segment, 2)], reports.clone()));
        }
        assert_eq!(learning.learner.seen, [(0, 0), (0, 1)]);
        assert_eq!(learning.learner.weight.double_value(&[0]), weight);
    }

    #[test]
    fn the_second_stage_has_its_own_tasks_and_steps_follow_each_other() {
        let (mut learning, mut results) = learning();
        assert!(learning.window(0, window(A, 2, 0)).is_err(), "step 1 before step 0");
        for segment in [0, 1] {
            learning.window(0, window(A, segment, 0)).unwrap();
        }
        told(&mut results);
        for (task, input) in [(0, A), (1, B)] {
            for segment in [3, 2] {
                learning.window(task, window(input, segment, 0)).unwrap();
            }
        }
        assert_eq!(learning.learner.seen[2..], [(0, 2), (0, 3), (1, 2), (1, 3)]);
        assert!(matches!(told(&mut results).1[..], [Progress::Learned { step: 1, .. }]));
        // A window of a step that is over is nobody's business any more.
        learning.window(0, window(A, 0, 1)).unwrap();
        assert_eq!(told(&mut results), (Vec::new(), Vec::new()));
        assert!(learning.window(0, window(A, 8, 0)).is_err(), "step 4 after step 1");
    }

    #[test]
    fn a_shard_is_written_only_of_the_steps_that_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let (mut learning, mut results) = learning();
        learning.config.output = folder.path().into();
        assert!(learning.save(1).is_err());
        for segment in [0, 1] {
            learning.window(0, window(A, segment, 0)).unwrap();
        }
        told(&mut results);
        learning.save(1).unwrap();
        learning.window(0, window(A, 2, 0)).unwrap();
        // Asked for again, late: what was written then.
        learning.save(1).unwrap();
        let (_, reports) = told(&mut results);
        assert!(matches!(&reports[..], [Progress::Saved { step: 1, .. }, again] if *again == reports[0]));
    }

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
