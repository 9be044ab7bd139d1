//! The compute thread of a node with a part of the network: processes the windows of a step in order, then updates
//! the parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use eyre::{Result, bail, eyre};
use tokio::sync::mpsc::UnboundedSender;

use super::learner::Learner;
use crate::message::control::Progress;
use crate::runtime::assembly::Window;
use crate::runtime::stage::{Emit, Output, panic_text};
use crate::runtime::startup::one_line;
use crate::runtime::threads::compute_here;
use crate::runtime::turns::Turns;
use crate::training::{TrainingConfig, TrainingError};

/// A message for the compute thread.
pub(super) enum Work {
    Window(usize, Box<Window>),
    Save(u64),
    End,
}

/// A message from the compute thread.
pub(super) enum Done {
    Output(Output),
    Report(Progress),
    /// A job is done.
    Work,
    /// All jobs are done.
    Ended(Result<(), TrainingError>),
}

/// The compute thread.
pub(super) struct Learning<L> {
    learner: L,
    config: TrainingConfig,
    outputs: BTreeSet<String>,
    to_io: UnboundedSender<Done>,
    turns: Turns,
    /// The first step that this process learns from.
    first: u64,
    /// The present step, or the last one.
    step: Option<u64>,
    /// Windows that arrived before their turn. Windows are processed in order, so that sums are the same as in one
    /// process.
    early: BTreeMap<(usize, i64), Window>,
    /// The next segment, by task.
    next: Vec<i64>,
    /// The outputs of each task for each window of the step.
    given: BTreeMap<(usize, i64), Vec<Output>>,
    loss: f64,
    /// The report of the step, once it is done.
    report: Option<Progress>,
    /// Number of steps before the last shard was written, and the shard's sha256.
    saved: Option<(u64, String)>,
}

impl<L: Learner> Learning<L> {
    /// For a part that learns from step `first` next.
    pub fn new(
        learner: L,
        config: TrainingConfig,
        outputs: BTreeSet<String>,
        to_io: UnboundedSender<Done>,
        turns: Turns,
        first: u64,
    ) -> Self {
        Self {
            learner,
            config,
            outputs,
            to_io,
            turns,
            first,
            step: None,
            early: BTreeMap::new(),
            next: Vec::new(),
            given: BTreeMap::new(),
            loss: 0.0,
            report: None,
            saved: None,
        }
    }

    /// Works until the end of the run.
    pub fn serve(&mut self, work: &mpsc::Receiver<Work>) {
        compute_here();
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
        // The I/O loop outlives this thread, except at exit, when nothing is needed.
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
            // It was sent again, because a later message was lost.
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
        while let Some(window) = self.early.remove(&(task, self.next[task])) {
            self.learn(task, &window)?;
            self.next[task] += 1;
        }
        Ok(())
    }

    fn begin(&mut self, step: u64) -> Result<()> {
        if !self.stands_at(step) {
            bail!("step {step} has arrived, but step {} is next", self.expected());
        }
        let tasks = self.learner.tasks(self.config.schedule.stage(step));
        self.next = vec![i64::try_from(step)? * self.windows(); tasks.len()];
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
        let turn = self.turns.take()?;
        let loss = self.learner.learn(task, window, stage, share, emit)?;
        drop(turn);
        // Check before other parts get values that are not finite.
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
        let _turn = self.turns.take()?;
        let gradient_norm = self.learner.part().gradient_norm();
        finite(step, "the norm of the gradients", gradient_norm)?;
        let learning_rate = self.config.learning_rate.at(step, &self.config.schedule);
        self.learner.part().update(learning_rate, gradient_norm);
        let report = Progress::Learned { step, loss: self.loss, gradient_norm };
        self.report = Some(report.clone());
        self.tell(Done::Report(report));
        Ok(())
    }

    /// The next step: the present one until it is done.
    fn expected(&self) -> u64 {
        self.step.map_or(self.first, |step| step + u64::from(self.report.is_some()))
    }

    /// Whether the parameters are those before `step`. An idle part does not see steps before its stage begins.
    fn stands_at(&self, step: u64) -> bool {
        let expected = self.expected();
        let rests = self.learner.tasks(self.config.schedule.stage(expected)).is_empty();
        step == expected || rests && step > expected
    }

    fn save(&mut self, step: u64) -> Result<()> {
        if let Some((_, sha256)) = self.saved.as_ref().filter(|(saved, _)| *saved == step) {
            let sha256 = sha256.clone();
            self.tell(Done::Report(Progress::Saved { step, sha256 }));
            return Ok(());
        }
        if !self.stands_at(step) {
            bail!("the shard after {step} steps was requested, but {} steps are done", self.expected());
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
    use tch::{Device, Kind, Tensor};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::super::testing::{A, B, array, config, header};
    use super::*;
    use crate::compute::Compute;
    use crate::message::WireKind;
    use crate::runtime::assembly::Assembler;
    use crate::runtime::input::Input;
    use crate::runtime::stage::Emit;
    use crate::training::{Part, PartName, Stage};

    /// A learner with one weight, whose gradient is the sum of its inputs.
    struct Fake {
        part: Part,
        weight: Tensor,
        seen: Vec<(usize, i64)>,
    }

    impl Learner for Fake {
        fn part(&mut self) -> &mut Part {
            &mut self.part
        }

        fn network(&self) -> Compute {
            Compute::fp32(Device::Cpu)
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

    fn learning() -> (Learning<Fake>, UnboundedReceiver<Done>) {
        let config = config();
        let compute = Compute::fp32(Device::Cpu);
        let make = |_: &_, trained: &tch::nn::VarStore| trained.root().zeros("weight", &[1]);
        let (part, weight) = Part::new(PartName::Encoder, &config, compute, make).unwrap();
        let (to_io, results) = unbounded_channel();
        let turns = Turns::new(None, &uuid::Uuid::nil());
        let fake = Fake { part, weight, seen: Vec::new() };
        let learning = Learning::new(fake, config, BTreeSet::from(["out".to_owned()]), to_io, turns, 0);
        (learning, results)
    }

    fn window(input: Input, segment: i64, attempt: i64) -> Window {
        let mut assembler = Assembler::new(vec![input]);
        assembler.add(&input, header(segment, attempt, 0, 1), &array(1.0)).unwrap().unwrap()
    }

    /// Attempts of the outputs, and the reports, since the last call.
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
        // A window of an earlier step is ignored.
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
        // Requested again, late: the answer is the shard that was written then.
        learning.save(1).unwrap();
        let (_, reports) = told(&mut results);
        assert!(matches!(&reports[..], [Progress::Saved { step: 1, .. }, again] if *again == reports[0]));
    }
}
