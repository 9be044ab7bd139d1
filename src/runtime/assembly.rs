//! Joins the slices of a window, which arrive one by one on one or several edges.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::ArrayRef;
use tch::{Device, Tensor};

use super::input::{Input, InputKind, check_slices, kept_as, window_shape};
use crate::message::{MessageError, SliceHeader, check_length, copy_slices, keys};

/// Number of windows remembered as replaced by newer attempts; older ones can no longer be in flight.
const REMEMBERED: usize = 4096;
/// Most windows that may be incomplete at a time; beyond it the oldest is dropped (and sent again).
const MAX_OPEN: usize = 64;

/// A complete window.
#[derive(Debug)]
pub struct Window {
    /// Header of one of its messages; `seq`, `level` and `shape` have no meaning here.
    pub header: SliceHeader,
    tensors: HashMap<(&'static str, i64), Tensor>,
    prompts: Vec<ArrayRef>,
}

impl Window {
    /// Slices `[D, …]` of input `name`, or of its level `level`, in the type received; an empty tensor if there is
    /// none.
    pub fn tensor(&self, name: &'static str, level: i64) -> Tensor {
        self.tensors.get(&(name, level)).map(Tensor::shallow_clone).unwrap_or_default()
    }

    /// All levels of input `name`, shallowest first, in the type received.
    pub fn levels(&self, name: &'static str) -> Vec<Tensor> {
        (0..).map_while(|level| self.tensors.get(&(name, level)).map(Tensor::shallow_clone)).collect()
    }

    /// Whether input `name` is connected.
    pub fn has(&self, name: &'static str) -> bool {
        self.tensors.contains_key(&(name, 0))
    }

    /// The prompt arrays, one per slice.
    pub fn prompts(&self) -> &[ArrayRef] {
        &self.prompts
    }
}

#[derive(Debug)]
struct Open {
    header: SliceHeader,
    tensors: HashMap<(&'static str, i64), Tensor>,
    prompts: BTreeMap<i64, ArrayRef>,
    seen: BTreeSet<(&'static str, i64, i64)>,
    levels: HashMap<&'static str, i64>,
}

/// Joins windows by segment; a newer attempt replaces an older one.
#[derive(Debug)]
pub struct Assembler {
    inputs: Vec<Input>,
    open: BTreeMap<i64, Open>,
    /// Newest attempt of each segment, and whether it has been handed on.
    newest: BTreeMap<i64, (i64, bool)>,
}

impl Assembler {
    /// An assembler for the connected `inputs`.
    pub fn new(inputs: Vec<Input>) -> Self {
        Self { inputs, open: BTreeMap::new(), newest: BTreeMap::new() }
    }

    /// Segments of which some but not all messages have arrived.
    pub fn incomplete(&self) -> Vec<i64> {
        self.open.keys().copied().collect()
    }

    /// Adds a message, and returns the window if this completes it. Late messages of an older attempt and repeated
    /// messages are dropped.
    ///
    /// # Errors
    /// A message that does not fit its window.
    pub fn add(
        &mut self,
        input: &Input,
        header: SliceHeader,
        array: &ArrayRef,
    ) -> Result<Option<Window>, MessageError> {
        if !self.is_wanted(&header) {
            return Ok(None);
        }
        self.make_room(header.segment_id);
        let open = self.open.entry(header.segment_id).or_insert_with(|| Open::new(header.clone()));
        if !open.take(input, &header, array)? || !open.is_complete(&self.inputs) {
            return Ok(None);
        }
        self.newest.insert(header.segment_id, (header.attempt, true));
        Ok(self.open.remove(&header.segment_id).map(Open::into_window))
    }

    /// Whether a message belongs to the newest attempt of a window that has not been handed on. A newer attempt
    /// restarts the window.
    fn is_wanted(&mut self, header: &SliceHeader) -> bool {
        let segment = header.segment_id;
        match self.newest.get(&segment) {
            Some(&(attempt, _)) if header.attempt < attempt => false,
            Some(&(attempt, is_done)) if header.attempt == attempt => !is_done,
            _ => {
                self.open.remove(&segment);
                self.newest.insert(segment, (header.attempt, false));
                true
            }
        }
    }

    /// Removes the oldest segments and incomplete windows beyond the limits.
    fn make_room(&mut self, segment: i64) {
        while self.newest.len() > REMEMBERED {
            let Some((&oldest, _)) = self.newest.iter().find(|&(&other, _)| other != segment) else { break };
            self.newest.remove(&oldest);
        }
        while self.open.len() >= MAX_OPEN && !self.open.contains_key(&segment) {
            self.open.pop_first();
        }
    }
}

impl Open {
    fn new(header: SliceHeader) -> Self {
        Self {
            header,
            tensors: HashMap::new(),
            prompts: BTreeMap::new(),
            seen: BTreeSet::new(),
            levels: HashMap::new(),
        }
    }

    /// Adds a message; returns `false` if all of it had been received before.
    fn take(&mut self, input: &Input, header: &SliceHeader, array: &ArrayRef) -> Result<bool, MessageError> {
        if header.count != self.header.count {
            return Err(MessageError::Value {
                key: keys::COUNT,
                value: header.count.to_string(),
                expected: format!("{} as in the window's other messages", self.header.count),
            });
        }
        let (level, levels) = header.level.unwrap_or((0, 1));
        let places = header.seq..header.seq + header.slices.unwrap_or(1);
        if places.clone().all(|seq| self.seen.contains(&(input.name, seq, level))) {
            return Ok(false);
        }
        check_slices(input.kind, header.slices)?;
        if input.kind == InputKind::Prompts {
            self.prompts.insert(header.seq, array.clone());
        } else {
            check_length(array, &header.shape)?;
            let kind = kept_as(input.kind, array)?;
            let shape = window_shape(header, kind)?;
            let window = self.tensors.entry((input.name, level));
            let window = window.or_insert_with(|| Tensor::empty(shape, (kind, Device::Cpu)));
            copy_slices(array, header.slice_shape(), window, places.clone())?;
        }
        for (node, &[began, sent]) in &header.times {
            let time = self.header.times.entry(node.clone()).or_insert([began, sent]);
            *time = [time[0].min(began), time[1].max(sent)];
        }
        // Recorded only now, because a rejected message is still missing.
        self.seen.extend(places.map(|seq| (input.name, seq, level)));
        self.levels.insert(input.name, levels);
        Ok(true)
    }

    /// Whether every slice and level of all inputs has arrived.
    fn is_complete(&self, inputs: &[Input]) -> bool {
        inputs.iter().all(|input| {
            self.levels.get(input.name).is_some_and(|&levels| {
                let messages = self.seen.iter().filter(|(name, _, _)| *name == input.name).count();
                messages as i64 == self.header.count * levels
            })
        })
    }

    fn into_window(self) -> Window {
        let prompts = self.prompts.into_values().collect();
        Window { header: self.header, tensors: self.tensors, prompts }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::message::{WireKind, encode_tensor};

    const A: Input = Input { name: "a", kind: InputKind::Floats };
    const B: Input = Input { name: "b", kind: InputKind::Floats };

    fn header(attempt: i64, seq: i64, level: Option<(i64, i64)>) -> SliceHeader {
        SliceHeader {
            session_id: "s".into(),
            segment_id: 5,
            attempt,
            seq,
            count: 2,
            case_id: "c".into(),
            classes: 2,
            level,
            slices: None,
            image_size: None,
            covered: None,
            times: Default::default(),
            shape: vec![2],
        }
    }

    fn array(value: f32) -> ArrayRef {
        encode_tensor(&Tensor::from_slice(&[value, value]), WireKind::Float32)
    }

    #[test]
    fn a_window_is_complete_when_every_level_of_every_input_is_there() {
        let mut assembler = Assembler::new(vec![A, B]);
        for seq in [1, 0] {
            for level in [1, 0] {
                let header = header(0, seq, Some((level, 2)));
                assert!(assembler.add(&A, header, &array((10 * level + seq) as f32)).unwrap().is_none());
            }
        }
        assert!(assembler.add(&B, header(0, 0, None), &array(7.0)).unwrap().is_none());
        assert!(assembler.add(&B, header(0, 0, None), &array(7.0)).unwrap().is_none(), "a repeat");
        let window = assembler.add(&B, header(0, 1, None), &array(8.0)).unwrap().unwrap();
        let levels = window.levels("a");
        assert_eq!(levels.len(), 2);
        assert_eq!(Vec::<f32>::try_from(levels[1].flatten(0, -1)).unwrap(), [10.0, 10.0, 11.0, 11.0]);
        assert_eq!(Vec::<f32>::try_from(window.tensor("b", 0).flatten(0, -1)).unwrap(), [7.0, 7.0, 8.0, 8.0]);
        assert!(assembler.incomplete().is_empty());
    }

    #[test]
    fn a_window_has_the_times_of_all_nodes_that_its_messages_passed() {
        let mut assembler = Assembler::new(vec![A, B]);
        let with = |seq, times: &[(&str, [i64; 2])]| SliceHeader {
            times: times.iter().map(|&(node, time)| (node.into(), time)).collect(),
            ..header(0, seq, None)
        };
        let encoded: &[_] = &[("encoder", [3, 5])];
        assert!(assembler.add(&A, with(0, encoded), &array(0.0)).unwrap().is_none());
        assert!(assembler.add(&A, with(1, &[("encoder", [3, 8])]), &array(0.0)).unwrap().is_none());
        let prompted: &[_] = &[("encoder", [3, 7]), ("extractor", [9, 10])];
        assert!(assembler.add(&B, with(0, prompted), &array(0.0)).unwrap().is_none());
        let window = assembler.add(&B, with(1, prompted), &array(0.0)).unwrap().unwrap();
        let expected = [("encoder", [3, 8]), ("extractor", [9, 10])];
        assert_eq!(window.header.times, expected.map(|(node, time)| (node.into(), time)).into());
    }

    #[test]
    fn a_window_keeps_the_type_of_its_first_message() {
        let mut assembler = Assembler::new(vec![A]);
        let values = Tensor::from_slice(&[0.5f32, -3.0]);
        let kinds = [WireKind::Float16, WireKind::Float32];
        let windows: Vec<Option<Window>> = (0..)
            .zip(kinds)
            .map(|(seq, kind)| {
                assembler.add(&A, header(0, seq, None), &encode_tensor(&values, kind)).unwrap()
            })
            .collect();
        let window = windows[1].as_ref().unwrap().tensor("a", 0);
        assert_eq!(window.kind(), Kind::Half);
        assert_eq!(Vec::<f32>::try_from(window.flatten(0, -1)).unwrap(), [0.5, -3.0, 0.5, -3.0]);
    }

    #[test]
    fn the_bits_of_bfloat16_are_for_parts_in_training_alone() {
        let bits = encode_tensor(&Tensor::from_slice(&[1.0f32, 1e30]), WireKind::BFloat16);
        let between_parts = Input { name: "a", kind: InputKind::Activations };
        let run = SliceHeader { slices: Some(1), count: 1, shape: vec![1, 2], ..header(0, 0, None) };
        let window = Assembler::new(vec![between_parts]).add(&between_parts, run, &bits).unwrap();
        assert_eq!(window.unwrap().tensor("a", 0).kind(), Kind::BFloat16);
        for input in [A, Input { name: "a", kind: InputKind::Labels }] {
            let error =
                Assembler::new(vec![input]).add(&input, header(0, 0, None), &bits).unwrap_err().to_string();
            assert!(error.contains("UInt16"), "{error}");
        }
    }

    #[test]
    fn a_newer_attempt_replaces_an_older_one_and_late_messages_are_dropped() {
        let mut assembler = Assembler::new(vec![A]);
        assert!(assembler.add(&A, header(0, 0, None), &array(1.0)).unwrap().is_none());
        assert!(assembler.add(&A, header(1, 1, None), &array(2.0)).unwrap().is_none());
        assert!(assembler.add(&A, header(0, 1, None), &array(3.0)).unwrap().is_none(), "late");
        let window = assembler.add(&A, header(1, 0, None), &array(4.0)).unwrap().unwrap();
        assert_eq!(Vec::<f32>::try_from(window.tensor("a", 0).flatten(0, -1)).unwrap(), [4.0, 4.0, 2.0, 2.0]);
        assert!(assembler.add(&A, header(1, 0, None), &array(5.0)).unwrap().is_none(), "already handed on");
        assert!(assembler.add(&A, header(2, 0, None), &array(5.0)).unwrap().is_none());
        assert!(assembler.add(&A, header(2, 1, None), &array(5.0)).unwrap().is_some(), "sent again");
    }

    #[test]
    fn a_run_of_slices_counts_for_each_of_them_and_overlaps_once() {
        let between_parts = Input { name: "a", kind: InputKind::Activations };
        let mut assembler = Assembler::new(vec![between_parts]);
        let run = |seq: i64, slices: i64| {
            let header = SliceHeader {
                count: 4,
                slices: Some(slices),
                shape: vec![slices, 2],
                ..header(0, seq, None)
            };
            let values = Tensor::arange_start(seq, seq + slices, (Kind::Float, Device::Cpu))
                .repeat_interleave_self_int(2, 0, None);
            (header, encode_tensor(&values, WireKind::Float32))
        };
        for (seq, slices) in [(0, 2), (0, 2), (1, 2)] {
            let (header, array) = run(seq, slices);
            assert!(assembler.add(&between_parts, header, &array).unwrap().is_none());
        }
        let (last, array) = run(3, 1);
        let window = assembler.add(&between_parts, last, &array).unwrap().unwrap().tensor("a", 0);
        assert_eq!(Vec::<f32>::try_from(window.select(1, 1)).unwrap(), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn runs_are_for_parts_in_training_alone_and_slices_one_by_one_for_the_others() {
        let input = |kind| Input { name: "a", kind };
        let one = SliceHeader { slices: Some(1), shape: vec![1, 2], ..header(0, 0, None) };
        for kind in [InputKind::Floats, InputKind::Labels, InputKind::Prompts] {
            let error = Assembler::new(vec![input(kind)]).add(&input(kind), one.clone(), &array(0.0));
            assert!(error.unwrap_err().to_string().contains("`slices`"), "{kind:?}");
        }
        let between_parts = input(InputKind::Activations);
        let error = Assembler::new(vec![between_parts]).add(&between_parts, header(0, 0, None), &array(0.0));
        assert!(error.unwrap_err().to_string().contains("`slices`"));
    }

    #[test]
    fn what_was_refused_is_still_missing() {
        let mut assembler = Assembler::new(vec![A]);
        let short = encode_tensor(&Tensor::from_slice(&[1.0f32]), WireKind::Float32);
        assert!(assembler.add(&A, header(0, 0, None), &short).is_err());
        assert!(assembler.add(&A, header(0, 1, None), &array(2.0)).unwrap().is_none());
        let window = assembler.add(&A, header(0, 0, None), &array(1.0)).unwrap().unwrap();
        assert_eq!(Vec::<f32>::try_from(window.tensor("a", 0).select(1, 0)).unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn a_window_beyond_the_limits_is_refused_before_it_is_allocated() {
        let large = SliceHeader { shape: vec![1 << 20], ..header(0, 0, None) }; // 4 MiB
        let slice = encode_tensor(&Tensor::zeros([1 << 20], (Kind::Float, Device::Cpu)), WireKind::Float32);
        for count in [2049, 4096, 4097, i64::MAX, 0, -1] {
            let mut assembler = Assembler::new(vec![A]);
            let error = assembler.add(&A, SliceHeader { count, ..large.clone() }, &slice).unwrap_err();
            let expected = format!("metadata key `count` has the value {count}, which is not in 1..=2048: ");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn slices_of_different_shape_are_an_error() {
        let mut assembler = Assembler::new(vec![A]);
        assembler.add(&A, header(0, 0, None), &array(1.0)).unwrap();
        let other = SliceHeader { shape: vec![1, 2], ..header(0, 1, None) };
        assert!(assembler.add(&A, other, &array(1.0)).unwrap_err().to_string().contains("[1, 2]"));
    }
}
