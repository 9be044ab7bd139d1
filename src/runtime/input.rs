//! An input edge of a stage: what it carries, and which messages are refused.

use arrow::array::ArrayRef;
use tch::Kind;

use crate::bundle::{MAX_DEPTH, MAX_WINDOW_BYTES, most_slices};
use crate::message::{MessageError, SliceHeader, activation_kind, keys, tensor_kind};

/// What an edge carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// Floats: one tensor per slice, or several levels per slice.
    Floats,
    /// Floats of several consecutive slices, between the parts of a network in training; UInt16 stands for bfloat16.
    Activations,
    /// Labels.
    Labels,
    /// Prompts, kept as Arrow arrays.
    Prompts,
}

/// An input edge of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Name of the input in the dataflow.
    pub name: &'static str,
    /// What it carries.
    pub kind: InputKind,
}

impl Input {
    /// Whether messages with this id belong to the input: its name, or with a number (`logits_2`) those of a further node
    /// that sends the same.
    pub fn takes(&self, id: &str) -> bool {
        number_of(self.name, id).is_some()
    }
}

/// The number of an input or output: 1 for its bare name, N for `<name>_N`.
pub(super) fn number_of(name: &str, id: &str) -> Option<u32> {
    match id.strip_prefix(name)? {
        "" => Some(1),
        rest => rest.strip_prefix('_')?.parse().ok().filter(|&number| number > 1),
    }
}

/// Shape of the tensor for a window, before memory is allocated for it: its number of slices is a value in a header.
pub(super) fn window_shape(header: &SliceHeader, kind: Kind) -> Result<Vec<i64>, MessageError> {
    let slice_bytes = header.slice_shape().iter().fold(kind.elt_size_in_bytes(), |bytes, &size| {
        bytes.saturating_mul(usize::try_from(size).unwrap_or(usize::MAX))
    });
    let most = most_slices(slice_bytes) as i64;
    if !(1..=most).contains(&header.count) {
        let gib = MAX_WINDOW_BYTES >> 30;
        return Err(MessageError::Value {
            key: keys::COUNT,
            value: header.count.to_string(),
            expected: format!(
                "in 1..={most}: a window has at most {MAX_DEPTH} slices and {gib} GiB on an edge"
            ),
        });
    }
    Ok([&[header.count], header.slice_shape()].concat())
}

/// Only parts of a network in training send several slices per message.
pub(super) fn check_slices(kind: InputKind, slices: Option<i64>) -> Result<(), MessageError> {
    match (kind, slices) {
        (InputKind::Activations, None) => {
            let expected = "an integer, because parts in training exchange several slices per message";
            Err(MessageError::Key { key: keys::SLICES, expected })
        }
        (InputKind::Floats | InputKind::Labels | InputKind::Prompts, Some(slices)) => {
            Err(MessageError::Value {
                key: keys::SLICES,
                value: slices.to_string(),
                expected: "absent, as this input takes slices one by one".into(),
            })
        }
        _ => Ok(()),
    }
}

/// The type in which an array is stored.
pub(super) fn kept_as(kind: InputKind, array: &ArrayRef) -> Result<Kind, MessageError> {
    let found = match kind {
        InputKind::Activations => activation_kind(array)?,
        _ => tensor_kind(array)?,
    };
    Ok(match (kind, found) {
        (InputKind::Labels, _) => Kind::Uint8,
        (_, Kind::Half | Kind::BFloat16) => found,
        _ => Kind::Float,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_may_have_further_sources() {
        let logits = Input { name: "logits", kind: InputKind::Floats };
        assert!(["logits", "logits_2", "logits_12"].iter().all(|id| logits.takes(id)));
        assert!(
            !["logit", "logits2", "logits_", "logits_x", "logits_1", "labels"]
                .iter()
                .any(|id| logits.takes(id))
        );
    }

    #[test]
    fn the_limit_of_a_window_follows_the_size_of_its_slices() {
        let header = |count, shape: &[i64]| SliceHeader {
            session_id: "s".into(),
            segment_id: 5,
            attempt: 0,
            seq: 0,
            count,
            case_id: "c".into(),
            classes: 2,
            level: None,
            slices: None,
            image_size: None,
            covered: None,
            times: Default::default(),
            shape: shape.to_vec(),
        };
        let mib = [1 << 18]; // as Float32
        assert_eq!(window_shape(&header(4096, &mib), Kind::Float).unwrap(), [4096, 1 << 18]);
        let four = [4, 1 << 18];
        assert_eq!(window_shape(&header(2048, &four), Kind::Float).unwrap(), [2048, 4, 1 << 18]);
        assert!(window_shape(&header(2049, &four), Kind::Half).is_ok());
        for (count, shape) in [(2049, &four[..]), (4097, &mib), (1, &[1 << 20; 4]), (1, &[i64::MAX; 4])] {
            let error = window_shape(&header(count, shape), Kind::Float).unwrap_err().to_string();
            assert!(error.starts_with(&format!("metadata key `count` has the value {count}, ")), "{error}");
        }
    }
}
