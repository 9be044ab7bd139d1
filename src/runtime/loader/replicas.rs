//! Replicas of the nodes between loader and writer: each gets its windows by an output of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::LABELS;
use crate::runtime::input::number_of;

/// Output of the slices; those of further replicas are `slices_2`, `slices_3`, ….
const SLICES: &str = "slices";

/// The outputs for slices that the dataflow declares, and which window went to which of them.
#[derive(Debug)]
pub(in crate::runtime) struct Replicas {
    outputs: Vec<Outputs>,
    /// Replica of each window that is not acknowledged.
    dealt: BTreeMap<i64, usize>,
}

/// The outputs that lead to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outputs {
    pub slices: String,
    /// Output of the labels, if the dataflow declares it.
    pub labels: Option<String>,
}

impl Replicas {
    /// Those of the outputs that the dataflow declares: `slices`, `slices_2` and so on, with `labels`, `labels_2`, ….
    pub fn of(declared: &BTreeSet<String>) -> Self {
        let is_slices = |name: &&String| number_of(SLICES, name).is_some();
        let outputs = declared.iter().filter(is_slices).map(|slices| {
            let labels = slices.replacen(SLICES, LABELS, 1);
            Outputs { labels: declared.contains(&labels).then_some(labels), slices: slices.clone() }
        });
        let mut outputs: Vec<Outputs> = outputs.collect();
        if outputs.is_empty() {
            outputs.push(Outputs { slices: SLICES.into(), labels: None });
        }
        Self { outputs, dealt: BTreeMap::new() }
    }

    /// Number of replicas.
    pub fn count(&self) -> usize {
        self.outputs.len()
    }

    /// Where a window goes: to the replica with the fewest windows. If the window is sent again, to another replica than
    /// before.
    pub(super) fn deal(&mut self, segment: i64) -> &Outputs {
        let before = self.dealt.remove(&segment).filter(|_| self.outputs.len() > 1);
        let load = |replica: &usize| self.dealt.values().filter(|dealt| *dealt == replica).count();
        let others = (0..self.outputs.len()).filter(|&replica| Some(replica) != before);
        let replica = others.min_by_key(load).unwrap_or(0);
        self.dealt.insert(segment, replica);
        &self.outputs[replica]
    }

    /// The writer has these windows, or their case is given up.
    pub fn forget(&mut self, is_meant: impl Fn(i64) -> bool) {
        self.dealt.retain(|&segment, _| !is_meant(segment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(declared: &[&str]) -> Replicas {
        Replicas::of(&declared.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn windows_go_where_fewest_are_and_lost_ones_elsewhere() {
        let mut replicas = replicas(&["cases", "slices", "slices_2", "slices_3"]);
        let mut deal = |segment| replicas.deal(segment).slices.clone();
        assert_eq!([deal(1), deal(2), deal(3), deal(4)], ["slices", "slices_2", "slices_3", "slices"]);
        replicas.forget(|segment| segment == 3);
        assert_eq!(replicas.deal(5).slices, "slices_3");
        assert_ne!(replicas.deal(2).slices, "slices_2");
        replicas.forget(|segment| segment < 5);
        assert_eq!(replicas.deal(6).slices, "slices");
    }

    #[test]
    fn one_replica_gets_all_windows_again() {
        let mut replicas = replicas(&["cases", "labels", "slices"]);
        let both = Outputs { slices: "slices".into(), labels: Some("labels".into()) };
        assert_eq!(replicas.count(), 1);
        assert_eq!(replicas.deal(1), &both);
        assert_eq!(replicas.deal(1), &both);
    }

    #[test]
    fn labels_follow_the_slices() {
        let mut replicas = replicas(&["slices", "labels", "slices_2", "labels_2", "slicesx", "slices_x"]);
        assert_eq!(replicas.count(), 2);
        replicas.deal(1);
        assert_eq!(replicas.deal(2).labels.as_deref(), Some("labels_2"));
    }
}
