//! Metadata of a slice message. Keys of dora's streaming pattern keep dora's names.

use std::collections::BTreeMap;

use dora_node_api::{MetadataParameters, Parameter};

use super::MessageError;
use crate::bundle::MAX_DEPTH;

/// Names of the metadata keys.
pub mod keys {
    /// List of int: shape of the tensor in C order.
    pub const SHAPE: &str = "shape";
    /// String: one run of a dataflow.
    pub const SESSION_ID: &str = dora_node_api::SESSION_ID;
    /// Int: one window of one case, unique in the session.
    pub const SEGMENT_ID: &str = dora_node_api::SEGMENT_ID;
    /// Int: slice within the window, from 0.
    pub const SEQ: &str = dora_node_api::SEQ;
    /// Bool: this is the window's last slice.
    pub const FIN: &str = dora_node_api::FIN;
    /// Int: slices in the window.
    pub const COUNT: &str = "count";
    /// Int: how often the window was sent before.
    pub const ATTEMPT: &str = "attempt";
    /// String: the case the slice belongs to.
    pub const CASE_ID: &str = "case_id";
    /// Int: feature level, from 0 (the shallowest).
    pub const LEVEL: &str = "level";
    /// Int: number of feature levels.
    pub const LEVELS: &str = "levels";
    /// Int: number of consecutive slices in the message, the first dimension of its shape. Only in training.
    pub const SLICES: &str = "slices";
    /// Int: number of classes, background included.
    pub const CLASSES: &str = "classes";
    /// Int: side of the square model input, in whose pixels points and boxes are.
    pub const IMAGE_SIZE: &str = "image_size";
    /// List of int, followed by the id of a node: when it began to work on the window and when it sent this message,
    /// nanoseconds since 1970. Only in live segmentation.
    pub const TIME_OF: &str = "time_of.";
    /// List of int: the rows and columns of the slice that the volume covers, `[first, end, first, end]`; absent =
    /// all.
    pub const COVERED: &str = "covered";
}

/// Most nodes whose times are read from a message.
const MOST_TIMES: usize = 16;

/// When each node, by its id, began to work on a window and when it sent the result, nanoseconds since 1970.
pub type NodeTimes = BTreeMap<String, [i64; 2]>;

/// Metadata of a tensor message: which slices of which window it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceHeader {
    /// Run of the dataflow.
    pub session_id: String,
    /// Window of a case, unique in the session.
    pub segment_id: i64,
    /// How often the window was sent before.
    pub attempt: i64,
    /// Slice within the window; in a message of several slices, the first of them.
    pub seq: i64,
    /// Slices in the window.
    pub count: i64,
    /// Case the slice belongs to.
    pub case_id: String,
    /// Number of classes, background included.
    pub classes: i64,
    /// Side of the square model input, pixels; `None` if the sender does not say.
    pub image_size: Option<i64>,
    /// `(level, levels)` of a feature map.
    pub level: Option<(i64, i64)>,
    /// Number of slices, equal to the first dimension of the shape; `None` for a single slice without that
    /// dimension.
    pub slices: Option<i64>,
    /// Rows and columns of the slice that the volume covers, `[first, end]` each; `None` = all.
    pub covered: Option<[[i64; 2]; 2]>,
    /// What the nodes before have measured. A node adds its own time only if there is one, as in live segmentation.
    pub times: NodeTimes,
    /// Shape of the tensor.
    pub shape: Vec<i64>,
}

impl SliceHeader {
    /// Reads and checks metadata.
    ///
    /// # Errors
    /// [`MessageError::Key`] and [`MessageError::Value`], naming the key.
    pub fn parse(parameters: &MetadataParameters) -> Result<Self, MessageError> {
        let count = integer(parameters, keys::COUNT)?;
        in_range(keys::COUNT, count, 1, MAX_DEPTH as i64)?;
        let seq = integer(parameters, keys::SEQ)?;
        in_range(keys::SEQ, seq, 0, count - 1)?;
        let level = match parameters.contains_key(keys::LEVEL) {
            true => {
                let levels = integer(parameters, keys::LEVELS)?;
                in_range(keys::LEVELS, levels, 1, 64)?;
                let level = integer(parameters, keys::LEVEL)?;
                in_range(keys::LEVEL, level, 0, levels - 1)?;
                Some((level, levels))
            }
            false => None,
        };
        let shape = match parameters.get(keys::SHAPE) {
            Some(Parameter::ListInt(shape)) => shape.clone(),
            _ => return Err(MessageError::Key { key: keys::SHAPE, expected: "a list of integers" }),
        };
        in_range(keys::SHAPE, shape.len() as i64, 1, 4)?;
        for &size in &shape {
            in_range(keys::SHAPE, size, 1, 1 << 20)?;
        }
        let slices = match parameters.contains_key(keys::SLICES) {
            true => {
                let slices = integer(parameters, keys::SLICES)?;
                in_range(keys::SLICES, slices, 1, count - seq)?;
                in_range(keys::SLICES, slices, shape[0], shape[0])?;
                Some(slices)
            }
            false => None,
        };
        let covered = match parameters.get(keys::COVERED) {
            None => None,
            Some(Parameter::ListInt(list)) if list.len() == 4 => {
                for range in list.chunks(2) {
                    in_range(keys::COVERED, range[1], 1, 1 << 20)?;
                    in_range(keys::COVERED, range[0], 0, range[1] - 1)?;
                }
                Some([[list[0], list[1]], [list[2], list[3]]])
            }
            Some(_) => return Err(MessageError::Key { key: keys::COVERED, expected: "four integers" }),
        };
        let image_size = match parameters.contains_key(keys::IMAGE_SIZE) {
            true => {
                let size = integer(parameters, keys::IMAGE_SIZE)?;
                in_range(keys::IMAGE_SIZE, size, 1, 1 << 20)?;
                Some(size)
            }
            false => None,
        };
        Ok(Self {
            session_id: string(parameters, keys::SESSION_ID)?,
            segment_id: integer(parameters, keys::SEGMENT_ID)?,
            attempt: integer(parameters, keys::ATTEMPT)?,
            case_id: string(parameters, keys::CASE_ID)?,
            classes: integer(parameters, keys::CLASSES)?,
            image_size,
            seq,
            count,
            level,
            slices,
            covered,
            times: times(parameters),
            shape,
        })
    }

    /// The metadata of this header.
    pub fn to_parameters(&self) -> MetadataParameters {
        let mut parameters = MetadataParameters::from([
            (keys::SHAPE.into(), Parameter::ListInt(self.shape.clone())),
            (keys::SESSION_ID.into(), Parameter::String(self.session_id.clone())),
            (keys::SEGMENT_ID.into(), Parameter::Integer(self.segment_id)),
            (keys::SEQ.into(), Parameter::Integer(self.seq)),
            (keys::FIN.into(), Parameter::Bool(self.seq + self.slices.unwrap_or(1) == self.count)),
            (keys::COUNT.into(), Parameter::Integer(self.count)),
            (keys::ATTEMPT.into(), Parameter::Integer(self.attempt)),
            (keys::CASE_ID.into(), Parameter::String(self.case_id.clone())),
            (keys::CLASSES.into(), Parameter::Integer(self.classes)),
        ]);
        if let Some(size) = self.image_size {
            parameters.insert(keys::IMAGE_SIZE.into(), Parameter::Integer(size));
        }
        if let Some((level, levels)) = self.level {
            parameters.insert(keys::LEVEL.into(), Parameter::Integer(level));
            parameters.insert(keys::LEVELS.into(), Parameter::Integer(levels));
        }
        if let Some(slices) = self.slices {
            parameters.insert(keys::SLICES.into(), Parameter::Integer(slices));
        }
        if let Some(covered) = self.covered {
            parameters.insert(keys::COVERED.into(), Parameter::ListInt(covered.concat()));
        }
        let times = self
            .times
            .iter()
            .map(|(node, time)| (format!("{}{node}", keys::TIME_OF), Parameter::ListInt(time.to_vec())));
        parameters.extend(times);
        parameters
    }

    /// Shape of each slice.
    pub fn slice_shape(&self) -> &[i64] {
        if self.slices.is_some() { &self.shape[1..] } else { &self.shape }
    }

    /// The header for slice `seq` of the same window with a tensor of `shape`.
    pub fn at(&self, seq: i64, shape: Vec<i64>) -> Self {
        Self { seq, shape, level: None, slices: None, ..self.clone() }
    }
}

/// The times of nodes. One that is no time is left out: it is no part of the result.
fn times(parameters: &MetadataParameters) -> NodeTimes {
    let time = |(key, value): (&String, &Parameter)| match (key.strip_prefix(keys::TIME_OF), value) {
        (Some(node), Parameter::ListInt(time)) => {
            Some((node.to_owned(), <[i64; 2]>::try_from(&**time).ok()?))
        }
        _ => None,
    };
    parameters.iter().filter_map(time).take(MOST_TIMES).collect()
}

pub(super) fn integer(parameters: &MetadataParameters, key: &'static str) -> Result<i64, MessageError> {
    match parameters.get(key) {
        Some(Parameter::Integer(value)) => Ok(*value),
        _ => Err(MessageError::Key { key, expected: "an integer" }),
    }
}

pub(super) fn string(parameters: &MetadataParameters, key: &'static str) -> Result<String, MessageError> {
    match parameters.get(key) {
        Some(Parameter::String(value)) => Ok(value.clone()),
        _ => Err(MessageError::Key { key, expected: "a string" }),
    }
}

pub(super) fn in_range(key: &'static str, value: i64, low: i64, high: i64) -> Result<(), MessageError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(MessageError::Value { key, value: value.to_string(), expected: format!("in {low}..={high}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SliceHeader {
        SliceHeader {
            session_id: "run".into(),
            segment_id: 7,
            attempt: 1,
            seq: 2,
            count: 3,
            case_id: "case".into(),
            classes: 4,
            level: Some((1, 5)),
            slices: None,
            image_size: Some(64),
            covered: Some([[0, 7], [2, 8]]),
            times: NodeTimes::from([("image-encoder".into(), [5, 9])]),
            shape: vec![4, 8, 8],
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        let run = SliceHeader { seq: 1, slices: Some(2), shape: vec![2, 8, 8], ..header() };
        assert_eq!(run.slice_shape(), [8, 8]);
        for header in [header(), run] {
            let parameters = header.to_parameters();
            assert!(matches!(parameters.get(keys::FIN), Some(Parameter::Bool(true))));
            assert_eq!(SliceHeader::parse(&parameters).unwrap(), header);
        }
    }

    #[test]
    fn a_run_lies_within_its_window_and_fits_its_shape() {
        for (slices, first_size) in [(2, 2), (1, 4), (0, 0)] {
            let run = SliceHeader { slices: Some(slices), shape: vec![first_size.max(1), 8], ..header() };
            let message = SliceHeader::parse(&run.to_parameters()).unwrap_err().to_string();
            assert!(message.contains("`slices`"), "{message}");
        }
    }

    #[test]
    fn a_missing_or_impossible_key_is_named() {
        for key in [keys::SHAPE, keys::SESSION_ID, keys::SEGMENT_ID, keys::SEQ, keys::COUNT, keys::LEVELS] {
            let mut parameters = header().to_parameters();
            parameters.remove(key);
            let message = SliceHeader::parse(&parameters).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        for (key, value) in [(keys::SEQ, 3), (keys::COUNT, 0), (keys::COUNT, i64::MAX), (keys::LEVEL, -1)] {
            let mut parameters = header().to_parameters();
            parameters.insert(key.into(), Parameter::Integer(value));
            let message = SliceHeader::parse(&parameters).unwrap_err().to_string();
            assert!(message.contains(key) || message.contains("seq"), "{message}");
        }
    }
}
