//! Loader, nodes and writer in virtual time. Messages are lost, duplicated and reordered, and processes restart:
//! nothing is lost, nothing is written twice, and the run always ends.
//!
//! The bookkeeping is the real code (`Dispatcher` in the loader, an `Assembler` in each node and in the writer). The
//! code around it is a model of `runtime/loader/run.rs`, `runtime/stage.rs` and `runtime/writer.rs`.

mod loader;
mod writer;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use self_prompt_sam::message::{SliceHeader, WireKind, encode_tensor};
use self_prompt_sam::runtime::{Assembler, Dispatcher, Input, InputKind, Window};
use tch::Tensor;

use loader::Loader;
use writer::Writer;

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
    Slice(usize, Input, Box<SliceHeader>, f32),
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
        image_size: None,
        covered: None,
        times: Default::default(),
        shape: vec![1],
    }
}

fn stage(life: u64, inputs: Vec<Input>) -> Stage {
    Stage { life, assembler: Assembler::new(inputs), queue: VecDeque::new() }
}

impl World {
    fn new(cases: Vec<usize>, depth: i64, credits: usize, faults: Faults) -> Self {
        let mut world = Self {
            rng: Pcg64::seed_from_u64(faults.seed),
            now_ms: 0,
            epoch: Instant::now(),
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            cases,
            depth,
            dispatcher: loader::dispatcher(credits),
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
                self.writer = self.writer.restarted();
                self.writer_assembler = Assembler::new(vec![LOGITS]);
                self.acknowledge(Ack::Hello);
            }
            Event::Restart(which) => {
                let inputs = if which == 0 { vec![SLICES] } else { vec![FEATURES, EMBEDDING] };
                self.stages[which] = stage(self.stages[which].life + 1, inputs);
            }
            Event::Slice(2, input, header, value) => {
                let array = encode_tensor(&Tensor::from_slice(&[value]), WireKind::Float32);
                if let Some(window) = self.writer_assembler.add(&input, *header, &array).unwrap() {
                    self.arrived(&window);
                }
            }
            Event::Slice(which, input, header, value) => {
                let array = encode_tensor(&Tensor::from_slice(&[value]), WireKind::Float32);
                let stage = &mut self.stages[which];
                if let Some(window) = stage.assembler.add(&input, *header, &array).unwrap() {
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
                self.send(|| Event::Slice(to, input, Box::new(header.clone()), value));
            }
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
