//! Environment variables.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use eyre::{Result, eyre};

use super::setting_text::decode_setting;

/// The decoded value of an environment variable; `None` if it is empty or not set.
pub fn value(name: &str) -> Option<OsString> {
    given(env::var_os(name))
}

/// The decoded value of a setting; `None` if it is empty.
pub(super) fn given(text: Option<OsString>) -> Option<OsString> {
    text.map(decode_setting).filter(|value| !value.as_bytes().trim_ascii().is_empty())
}

/// [`value`] as text.
pub fn variable(name: &str) -> Option<String> {
    value(name).map(|value| value.to_string_lossy().into_owned())
}

/// The integer value of an environment variable, or its default.
///
/// # Errors
/// A value that is not a non-negative integer.
pub fn number(name: &str, default: usize) -> Result<usize> {
    parse_number(name, variable(name), default)
}

pub(super) fn parse_number(name: &str, text: Option<String>, default: usize) -> Result<usize> {
    match text {
        None => Ok(default),
        Some(text) => {
            text.trim().parse().map_err(|_| eyre!("{name} is `{text}`, expected a non-negative integer"))
        }
    }
}
