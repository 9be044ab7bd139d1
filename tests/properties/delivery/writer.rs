//! The writer, a model of `runtime/writer.rs`.

use std::collections::{BTreeMap, BTreeSet};

use self_prompt_sam::runtime::Window;

use super::{Ack, Case, Event, World, value};

#[derive(Default)]
pub(super) struct Writer {
    pub life: u64,
    open: BTreeMap<usize, (i64, usize, BTreeSet<i64>)>,
    /// Cases that are written or given up.
    closed: BTreeSet<usize>,
    written: BTreeSet<usize>,
}

impl Writer {
    /// The next process, which remembers nothing.
    pub(super) fn restarted(&self) -> Self {
        Self { life: self.life + 1, ..Self::default() }
    }
}

impl World {
    pub(super) fn acknowledge(&mut self, ack: Ack) {
        let life = self.writer.life;
        self.send(|| Event::Ack(life, ack));
    }

    pub(super) fn announced(&mut self, case: Case) {
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

    pub(super) fn arrived(&mut self, window: &Window) {
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
}
