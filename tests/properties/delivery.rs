//! Loader, nodes and writer in virtual time. Messages are lost, duplicated and reordered, and processes restart:
//! nothing is lost, nothing is written twice, and the run always ends.
//!
//! The bookkeeping is the real code (`Dispatcher` in the loader, an `Assembler` in each node and in the writer). The
//! code around it is a model of `runtime/loader/run.rs`, `runtime/stage.rs` and `runtime/writer.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use self_prompt_sam::message::{SliceHeader, WireKind, encode_tensor};
use self_prompt_sam::runtime::{Action, Assembler, Dispatcher, Input, InputKind, Timing, Window};
use tch::Tensor;

/// The loader's limits, as in `runtime/loader/run.rs`.
const OPEN_CASES: usize = 3;
const ATTEMPTS: i64 = 6;
const ACK_TIMEOUT_MS: u64 = 10_000;
const REPEAT_MS: u64 = 30_000;
const TICK_MS: u64 = 1000;
/// A run of these sizes ends before this time even if every window is sent six times.
const LIMIT_MS: u64 = 200_000_000;

const SLICES: Input = Input { name: "slices", kind: InputKind::Floats };
const FEATURES: Input = Input { name: "features", kind: InputKind::Floats };
const EMBEDDING: Input = Input { name: "embedding", kind: InputKind::Floats };
const LOGITS: Input = Input { name: "logits", kind: InputKind::Floats };
const LEVELS: i64 = 2;

/// The faults of a run.
#[derive(Debug, Clone)]
struct Faults {
    seed: u64,
    lost: f64,
    doubled: f64,
    /// Largest delay of a message; later messages can overtake it.
    delay_ms: u64,
    compute_ms: u64,
    /// Times at which encoder (0), decoder (1) and writer (2) restart, milliseconds.
    restarts: Vec<(u64, usize)>,
    /// Faults occur until this time.
    until_ms: u64,
}

#[derive(Debug)]
enum Event {
    Tick,
    Restart(usize),
    /// A slice for the encoder, the decoder or the writer.
    Slice(usize, Input, SliceHeader, f32),
    /// The encoder or the decoder has computed its window, with the number of its process life.
    Computed(usize, u64),
    Alive(Vec<i64>),
    Ack(u64, Ack),
    Case(Case),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ack {
    Hello,
    Segment(i64),
    Case(usize),
    End,
}

#[derive(Debug, Clone, Copy)]
enum Case {
    Open { case: usize, first: i64, windows: usize },
    Failed { case: usize },
    End,
}

/// Encoder or decoder.
struct Stage {
    life: u64,
    assembler: Assembler,
    queue: VecDeque<Window>,
}

#[derive(Default)]
struct Writer {
    life: u64,
    open: BTreeMap<usize, (i64, usize, BTreeSet<i64>)>,
    /// Cases that are written or given up.
    closed: BTreeSet<usize>,
    written: BTreeSet<usize>,
}

#[derive(Default)]
struct Loader {
    writer: Option<u64>,
    next_case: usize,
    next_segment: i64,
    open: BTreeMap<i64, (usize, usize)>,
    unconfirmed: BTreeMap<usize, u64>,
    failed: BTreeSet<usize>,
    confirmed: BTreeSet<usize>,
    announced_ms: u64,
    end_sent_ms: Option<u64>,
    ended: bool,
}

struct World {
    faults: Faults,
    rng: Pcg64,
    now_ms: u64,
    epoch: Instant,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    cases: Vec<usize>,
    depth: i64,
    dispatcher: Dispatcher,
    loader: Loader,
    stages: [Stage; 2],
    writer: Writer,
    writer_assembler: Assembler,
    /// Written files: for each case, the lives of the writer that wrote it.
    files: BTreeMap<usize, Vec<u64>>,
}

/// The value of a slice of a window as the loader sends it.
fn value(segment: i64, seq: i64) -> f32 {
    (segment * 8 + seq) as f32
}

fn header(segment: i64, attempt: i64, seq: i64, count: i64, level: Option<(i64, i64)>) -> SliceHeader {
    SliceHeader {
        session_id: "run".into(),
        segment_id: segment,
        attempt,
        seq,
        count,
        case_id: "case".into(),
        classes: 2,
        level,
        slices: None,
        covered: None,
        shape: vec![1],
    }
}

fn stage(life: u64, inputs: Vec<Input>) -> Stage {
    Stage { life, assembler: Assembler::new(inputs), queue: VecDeque::new() }
}

impl World {
    fn new(cases: Vec<usize>, depth: i64, credits: usize, faults: Faults) -> Self {
        let ack_timeout = Duration::from_millis(ACK_TIMEOUT_MS);
        let mut world = Self {
            rng: Pcg64::seed_from_u64(faults.seed),
            now_ms: 0,
            epoch: Instant::now(),
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            cases,
            depth,
            dispatcher: Dispatcher::new(Timing { credits, ack_timeout, max_attempts: ATTEMPTS }),
            loader: Loader::default(),
            stages: [stage(0, vec![SLICES]), stage(0, vec![FEATURES, EMBEDDING])],
            writer: Writer::default(),
            writer_assembler: Assembler::new(vec![LOGITS]),
            files: BTreeMap::new(),
            faults,
        };
        for (at, who) in world.faults.restarts.clone() {
            world.at(at, Event::Restart(who));
        }
        world.at(TICK_MS, Event::Tick);
        world.send(|| Event::Ack(0, Ack::Hello));
        world
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.queue.push(Reverse((ms, self.order)));
        self.events.insert(self.order, event);
        self.order += 1;
    }

    /// Sends over the network: late, perhaps never, perhaps twice.
    fn send(&mut self, event: impl Fn() -> Event) {
        let faulty = self.now_ms < self.faults.until_ms;
        if faulty && self.rng.random_bool(self.faults.lost) {
            return;
        }
        let copies = if faulty && self.rng.random_bool(self.faults.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if faulty { self.rng.random_range(0..=self.faults.delay_ms) } else { 1 };
            self.at(self.now_ms + delay, event());
        }
    }

    fn now(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now_ms)
    }

    /// Runs until the end is acknowledged.
    fn run(mut self) -> Self {
        self.send_what_is_due();
        while let Some(Reverse((ms, order))) = self.queue.pop() {
            assert!(ms < LIMIT_MS, "the run does not end: {:?}", self.dispatcher);
            self.now_ms = ms;
            let event = self.events.remove(&order).unwrap();
            self.happen(event);
            self.send_what_is_due();
            if self.loader.ended {
                return self;
            }
        }
        unreachable!("ticks never end");
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick => {
                for which in 0..2 {
                    let segments: Vec<i64> =
                        self.stages[which].queue.iter().map(|window| window.header.segment_id).collect();
                    if !segments.is_empty() {
                        self.send(|| Event::Alive(segments.clone()));
                    }
                }
                self.tick_loader();
                self.at(self.now_ms + TICK_MS, Event::Tick);
            }
            Event::Restart(2) => {
                self.writer = Writer { life: self.writer.life + 1, ..Writer::default() };
                self.writer_assembler = Assembler::new(vec![LOGITS]);
                self.acknowledge(Ack::Hello);
            }
            Event::Restart(which) => {
                let inputs = if which == 0 { vec![SLICES] } else { vec![FEATURES, EMBEDDING] };
                self.stages[which] = stage(self.stages[which].life + 1, inputs);
            }
            Event::Slice(2, input, header, value) => {
                let array = encode_tensor(&Tensor::from_slice(&[value]), WireKind::Float32);
                if let Some(window) = self.writer_assembler.add(&input, header, &array).unwrap() {
                    self.arrived(&window);
                }
            }
            Event::Slice(which, input, header, value) => {
                let array = encode_tensor(&Tensor::from_slice(&[value]), WireKind::Float32);
                let stage = &mut self.stages[which];
                if let Some(window) = stage.assembler.add(&input, header, &array).unwrap() {
                    stage.queue.push_back(window);
                    if stage.queue.len() == 1 {
                        self.compute(which);
                    }
                }
            }
            Event::Computed(which, life) if self.stages[which].life == life => {
                let window = self.stages[which].queue.pop_front().unwrap();
                self.emit(which, &window);
                if !self.stages[which].queue.is_empty() {
                    self.compute(which);
                }
            }
            Event::Computed(..) => {}
            Event::Alive(segments) => {
                for segment in segments {
                    self.dispatcher.alive(segment, self.now());
                }
            }
            Event::Ack(life, ack) => self.told(life, ack),
            Event::Case(case) => self.announced(case),
        }
    }

    fn compute(&mut self, which: usize) {
        let takes = self.rng.random_range(1..=self.faults.compute_ms);
        let life = self.stages[which].life;
        self.at(self.now_ms + takes, Event::Computed(which, life));
    }

    /// Each output slice depends on all slices of the window, so that mixed-up slices are noticed.
    fn emit(&mut self, which: usize, window: &Window) {
        let (segment, attempt) = (window.header.segment_id, window.header.attempt);
        let floats = |tensor: Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
        let slices: Vec<f32> = (0..self.depth).map(|seq| value(segment, seq)).collect();
        if which == 0 {
            assert_eq!(floats(window.tensor("slices", 0)), slices);
        } else {
            assert_eq!(window.levels("features").len() as i64, LEVELS);
            assert_eq!(floats(window.tensor("features", 1)), slices);
            assert_eq!(floats(window.tensor("embedding", 0)), slices);
        }
        for seq in 0..self.depth {
            let value = value(segment, seq);
            let at = |level| header(segment, attempt, seq, self.depth, level);
            let mut sent = Vec::new();
            if which == 0 {
                sent.extend((0..LEVELS).map(|level| (1, FEATURES, at(Some((level, LEVELS))))));
                sent.push((1, EMBEDDING, at(None)));
            } else {
                sent.push((2, LOGITS, at(None)));
            }
            for (to, input, header) in sent {
                self.send(|| Event::Slice(to, input, header.clone(), value));
            }
        }
    }

    // The writer.

    fn acknowledge(&mut self, ack: Ack) {
        let life = self.writer.life;
        self.send(|| Event::Ack(life, ack));
    }

    fn announced(&mut self, case: Case) {
        match case {
            Case::Open { case, .. } if self.writer.closed.contains(&case) => {
                self.acknowledge(Ack::Case(case));
            }
            Case::Open { case, first, windows } => {
                self.writer.open.entry(case).or_insert((first, windows, BTreeSet::new()));
            }
            Case::Failed { case } => {
                self.writer.open.remove(&case);
                self.writer.closed.insert(case);
                self.acknowledge(Ack::Case(case));
            }
            Case::End => self.acknowledge(Ack::End),
        }
    }

    fn arrived(&mut self, window: &Window) {
        let segment = window.header.segment_id;
        let values = Vec::<f32>::try_from(window.tensor("logits", 0).flatten(0, -1)).unwrap();
        assert_eq!(values, (0..self.depth).map(|seq| value(segment, seq)).collect::<Vec<_>>());
        let mine = self
            .writer
            .open
            .iter_mut()
            .find(|(_, (first, windows, _))| (*first..*first + *windows as i64).contains(&segment));
        let Some((&case, (_, windows, arrived))) = mine else {
            // The case is closed or not announced.
            if self.writer.closed.iter().any(|&case| self.segments(case).contains(&segment)) {
                self.acknowledge(Ack::Segment(segment));
            }
            return;
        };
        arrived.insert(segment);
        let complete = arrived.len() == *windows;
        self.acknowledge(Ack::Segment(segment));
        if complete {
            self.writer.open.remove(&case);
            self.writer.closed.insert(case);
            assert!(self.writer.written.insert(case), "case {case} is written twice");
            self.files.entry(case).or_default().push(self.writer.life);
            self.acknowledge(Ack::Case(case));
        }
    }

    /// Segments of a case; cases are opened in order.
    fn segments(&self, case: usize) -> std::ops::Range<i64> {
        let first = self.cases[..case].iter().sum::<usize>() as i64;
        first..first + self.cases[case] as i64
    }

    // The loader.

    fn send_case(&mut self, case: Case) {
        self.send(|| Event::Case(case));
    }

    fn send_open(&mut self, first: i64) {
        if let Some(&(case, windows)) = self.loader.open.get(&first) {
            self.send_case(Case::Open { case, first, windows });
        }
    }

    fn told(&mut self, life: u64, ack: Ack) {
        if self.loader.writer.is_some_and(|known| known != life) {
            self.dispatcher.restart();
            for first in self.loader.open.keys().copied().collect::<Vec<_>>() {
                self.send_open(first);
            }
            self.repeat_failures(0);
        }
        self.loader.writer = Some(life);
        match ack {
            Ack::Hello => {}
            Ack::Segment(segment) => self.dispatcher.acknowledge(segment, self.now()),
            Ack::Case(case) => {
                self.loader.unconfirmed.remove(&case);
                self.close(case);
                self.loader.confirmed.insert(case);
            }
            Ack::End => self.loader.ended = true,
        }
    }

    fn close(&mut self, case: usize) {
        let first = self.loader.open.iter().find(|(_, (open, _))| *open == case).map(|(&first, _)| first);
        if let Some(first) = first {
            self.loader.open.remove(&first);
            self.dispatcher.close_case(first);
        }
    }

    fn repeat_failures(&mut self, after_ms: u64) {
        let now_ms = self.now_ms;
        let due = |sent: &u64| now_ms - sent >= after_ms;
        let due: Vec<usize> =
            self.loader.unconfirmed.iter().filter(|(_, sent)| due(sent)).map(|(&case, _)| case).collect();
        for case in due {
            self.send_case(Case::Failed { case });
            self.loader.unconfirmed.insert(case, now_ms);
        }
    }

    fn tick_loader(&mut self) {
        self.repeat_failures(REPEAT_MS);
        if self.now_ms - self.loader.announced_ms > REPEAT_MS
            && let Some(first) = self.dispatcher.overdue_case(self.now(), Duration::from_millis(REPEAT_MS))
        {
            self.send_open(first);
            self.loader.announced_ms = self.now_ms;
        }
        if self.loader.end_sent_ms.is_some_and(|sent| self.now_ms - sent > REPEAT_MS) {
            self.loader.end_sent_ms = None;
        }
    }

    fn send_what_is_due(&mut self) {
        while self.loader.next_case < self.cases.len() && self.loader.open.len() < OPEN_CASES {
            let (case, first) = (self.loader.next_case, self.loader.next_segment);
            let windows = self.cases[case];
            self.loader.next_case += 1;
            self.loader.next_segment += windows as i64;
            self.loader.open.insert(first, (case, windows));
            self.send_open(first);
            self.dispatcher.open_case(first, windows);
        }
        loop {
            match self.dispatcher.next(self.now()) {
                Action::Wait => break,
                Action::Send { segment, attempt } => self.send_window(segment, attempt),
                Action::GiveUp { case: first } => {
                    let (case, _) = self.loader.open[&first];
                    self.close(case);
                    self.loader.failed.insert(case);
                    self.send_case(Case::Failed { case });
                    self.loader.unconfirmed.insert(case, self.now_ms);
                    self.dispatcher.close_case(first);
                }
            }
        }
        let all = self.loader.next_case == self.cases.len();
        if all
            && self.loader.open.is_empty()
            && self.loader.unconfirmed.is_empty()
            && self.loader.end_sent_ms.is_none()
        {
            self.send_case(Case::End);
            self.loader.end_sent_ms = Some(self.now_ms);
        }
    }

    fn send_window(&mut self, segment: i64, attempt: i64) {
        assert!(self.dispatcher.is_open(segment), "a window of no open case is sent");
        if attempt > 0 {
            let first = self.loader.open.range(..=segment).next_back().map(|(&first, _)| first);
            self.send_open(first.unwrap());
        }
        for seq in 0..self.depth {
            let header = header(segment, attempt, seq, self.depth, None);
            self.send(|| Event::Slice(0, SLICES, header.clone(), value(segment, seq)));
        }
    }

    /// Checks that must hold when the loader has ended.
    fn check(&self) {
        for case in 0..self.cases.len() {
            let lives = self.files.get(&case).map_or(&[][..], Vec::as_slice);
            // A case can be both written and failed by name, if the loader gave up one of its windows.
            let ends = (!lives.is_empty(), self.loader.failed.contains(&case));
            assert!(ends.0 || ends.1, "case {case} is lost");
            assert!(self.loader.confirmed.contains(&case), "case {case} is not confirmed");
            // A case is written again only by a restarted writer, which remembers nothing.
            assert!(lives.is_sorted_by(|a, b| a < b), "case {case} is written twice: {lives:?}");
        }
    }
}

fn faults(lost: f64, restarts: usize, until_ms: u64) -> impl Strategy<Value = Faults> {
    let restarts = prop::collection::vec((0..until_ms.min(300_000), 0usize..3), 0..=restarts);
    (any::<u64>(), 0.0..=lost, 0.0..0.3, 0u64..4000, 1u64..4000, restarts).prop_map(
        move |(seed, lost, doubled, delay_ms, compute_ms, restarts)| Faults {
            seed,
            lost,
            doubled,
            delay_ms,
            compute_ms,
            restarts,
            until_ms,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With faults that never stop, every case is still written or fails by name.
    #[test]
    fn every_case_is_written_or_named(
        cases in prop::collection::vec(1usize..9, 1..6), depth in 1i64..4, credits in 1usize..5,
        faults in faults(0.3, 8, u64::MAX),
    ) {
        World::new(cases, depth, credits, faults).run().check();
    }

    /// Faults that stop before a window is given up fail no case.
    #[test]
    fn no_case_is_given_up_when_the_faults_pass(
        cases in prop::collection::vec(1usize..9, 1..6), depth in 1i64..4, credits in 1usize..5,
        faults in faults(0.3, 16, 60_000),
    ) {
        let end = World::new(cases, depth, credits, faults).run();
        end.check();
        prop_assert!(end.loader.failed.is_empty(), "given up: {:?}", end.loader.failed);
    }
}
