//! Messages that are one text, most of them JSON.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::MessageError;

/// One string as an array.
pub fn encode_text(text: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![text]))
}

/// The only string of an array.
///
/// # Errors
/// [`MessageError::Type`] and [`MessageError::Length`].
pub fn text(array: &ArrayRef) -> Result<&str, MessageError> {
    let strings = array
        .as_string_opt::<i32>()
        .ok_or_else(|| MessageError::Type { found: array.data_type().to_string(), expected: "Utf8" })?;
    match strings.len() {
        1 => Ok(strings.value(0)),
        found => Err(MessageError::Length { shape: vec![1], expected: 1, found }),
    }
}

/// A control message as JSON.
///
/// # Errors
/// [`MessageError::Json`].
pub fn to_json(message: &impl Serialize) -> Result<String, MessageError> {
    Ok(serde_json::to_string(message)?)
}

/// A control message from JSON.
///
/// # Errors
/// [`MessageError::Json`].
pub fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, MessageError> {
    Ok(serde_json::from_str(json)?)
}
