//! The loader, a model of `runtime/loader/run.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self_prompt_sam::runtime::{Action, Dispatcher, Timing};

use super::{Ack, Case, Event, SLICES, World, header, value};

/// Its limits.
const OPEN_CASES: usize = 3;
const ATTEMPTS: i64 = 6;
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
const REPEAT_MS: u64 = 30_000;

#[derive(Default)]
pub(super) struct Loader {
    writer: Option<u64>,
    next_case: usize,
    next_segment: i64,
    open: BTreeMap<i64, (usize, usize)>,
    unconfirmed: BTreeMap<usize, u64>,
    pub failed: BTreeSet<usize>,
    pub confirmed: BTreeSet<usize>,
    announced_ms: u64,
    end_sent_ms: Option<u64>,
    pub ended: bool,
}

/// Its bookkeeping of windows.
pub(super) fn dispatcher(credits: usize) -> Dispatcher {
    Dispatcher::new(Timing { credits, ack_timeout: ACK_TIMEOUT, max_attempts: ATTEMPTS })
}

impl World {
    fn send_case(&mut self, case: Case) {
        self.send(|| Event::Case(case));
    }

    fn send_open(&mut self, first: i64) {
        if let Some(&(case, windows)) = self.loader.open.get(&first) {
            self.send_case(Case::Open { case, first, windows });
        }
    }

    pub(super) fn told(&mut self, life: u64, ack: Ack) {
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

    pub(super) fn tick_loader(&mut self) {
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

    pub(super) fn send_what_is_due(&mut self) {
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
            self.send(|| Event::Slice(0, SLICES, Box::new(header.clone()), value(segment, seq)));
        }
    }
}
