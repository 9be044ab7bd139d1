//! Why messages cannot be used.

use thiserror::Error;

/// Why a message cannot be used.
#[derive(Debug, Error)]
pub enum MessageError {
    /// A metadata key is missing or has the wrong type.
    #[error("metadata key `{key}` is missing or is not {expected}")]
    Key { key: &'static str, expected: &'static str },
    /// A metadata value is out of range.
    #[error("metadata key `{key}` has the value {value}, which is not {expected}")]
    Value { key: &'static str, value: String, expected: String },
    /// The array has a type that this edge does not carry.
    #[error("the array is {found}, expected {expected}")]
    Type { found: String, expected: &'static str },
    /// The array's length does not fit its shape.
    #[error("shape {shape:?} needs {expected} values, the array has {found}")]
    Length { shape: Vec<i64>, expected: usize, found: usize },
    /// The shape is not the one the receiver works with.
    #[error("shape {found:?} does not fit {expected}")]
    Shape { found: Vec<i64>, expected: String },
    /// The array has nulls.
    #[error("the array has {0} nulls")]
    Nulls(usize),
    /// A control message is not the JSON expected.
    #[error("control message: {0}")]
    Json(#[from] serde_json::Error),
}
