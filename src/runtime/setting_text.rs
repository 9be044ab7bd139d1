//! Encodes settings so that they pass unchanged through a dataflow's `env:`. dora expands `$` in values, more than
//! once, and accepts only UTF-8. Commands therefore percent-encode such values and mark them with a prefix; nodes
//! read both forms.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};

const PREFIX: &str = "percent:";
/// Bytes that may have a special meaning on the way.
const SPECIAL: &[u8] = b"$\\\"'`~%#&*?!";

/// The value in a form that a dataflow can carry; unchanged if it has only plain characters.
pub fn encode_setting(value: &OsStr) -> OsString {
    let bytes = value.as_bytes();
    let is_special = |byte: &u8| SPECIAL.contains(byte) || byte.is_ascii_control();
    let is_padded = bytes.trim_ascii() != bytes;
    let is_plain = value.to_str().is_some() && !bytes.iter().any(is_special) && !is_padded;
    if is_plain && !bytes.starts_with(PREFIX.as_bytes()) {
        return value.to_owned();
    }
    format!("{PREFIX}{}", percent_encode(bytes, NON_ALPHANUMERIC)).into()
}

/// Undoes [`encode_setting`]; other values are returned unchanged.
pub fn decode_setting(text: OsString) -> OsString {
    match text.as_bytes().strip_prefix(PREFIX.as_bytes()) {
        Some(encoded) => OsString::from_vec(percent_decode(encoded).collect()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_and_plain_ones_stay_readable() {
        for name in [
            &b"/data/scans"[..],
            b"left=1,-2.5,3,4,5,6;right=1,2,3,4,5,6",
            "/data/größe/a b".as_bytes(),
            b"",
            b"3",
        ] {
            assert_eq!(encode_setting(OsStr::from_bytes(name)), OsStr::from_bytes(name));
        }
        for name in [
            &b"/data/$HOME/${x:-y}"[..],
            b"/data/caf\xe9",
            b"/data/a\"b'c\\d",
            b"/data/two\nlines",
            b" padded ",
            b"percent:%41",
        ] {
            let encoded = encode_setting(OsStr::from_bytes(name));
            let text = encoded.to_str().unwrap();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%:".contains(&byte)), "{text}");
            assert_eq!(decode_setting(encoded).as_bytes(), name);
        }
    }
}
