//! Lists of paths as written by text editors and shells: UTF-8 with or without byte-order mark, UTF-16 (PowerShell's
//! `>`), lines ending in LF or CRLF.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::volume::VolumeError;

/// A non-empty line of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Line number, from 1.
    pub line: usize,
    /// The text, without surrounding white space.
    pub text: OsString,
}

/// The lines of a list, without empty ones and those that begin with `#`.
///
/// # Errors
/// [`VolumeError::Io`]; [`VolumeError::List`] for a file that is not text.
pub(super) fn read(list: &Path) -> Result<Vec<Entry>, VolumeError> {
    let bytes = fs::read(list).map_err(|source| VolumeError::Io { path: list.into(), source })?;
    let bytes =
        to_utf8(&bytes).map_err(|reason| VolumeError::List { list: list.into(), reason: reason.into() })?;
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    let named = lines.filter_map(|(index, line)| {
        let text = unquoted(line.trim_ascii());
        let is_named = !text.is_empty() && !text.starts_with(b"#");
        // File names are bytes; most are UTF-8.
        is_named.then(|| Entry { line: index + 1, text: OsString::from_vec(text.to_vec()) })
    });
    Ok(named.collect())
}

/// Removes double quotes, which shells and spreadsheets put around names with spaces.
fn unquoted(line: &[u8]) -> &[u8] {
    match line {
        [b'"', inner @ .., b'"'] => inner,
        _ => line,
    }
}

fn to_utf8(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&units.iter().map(|&bytes| unit(bytes)).collect::<Vec<_>>());
        match text {
            Ok(text) if rest.is_empty() => Ok(text.into_bytes()),
            _ => Err("damaged UTF-16"),
        }
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ if bytes.contains(&0) => Err("neither UTF-8 nor UTF-16 with a byte-order mark"),
        [0xef, 0xbb, 0xbf, rest @ ..] => Ok(rest.to_vec()),
        _ => Ok(bytes.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        fs::write(&path, bytes).unwrap();
        read(&path).unwrap().into_iter().map(|entry| entry.text.into_string().unwrap()).collect()
    }

    #[test]
    fn lists_are_read_however_they_are_encoded() {
        let text = "# scans\r\na b.nii.gz\r\n\r\n\"größe.nii\"\r\n";
        let expected = ["a b.nii.gz", "größe.nii"];
        assert_eq!(lines(text.as_bytes()), expected);
        assert_eq!(lines(&[b"\xef\xbb\xbf", text.as_bytes()].concat()), expected);
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert_eq!(lines(&[b"\xff\xfe", &little[..]].concat()), expected);
        assert_eq!(lines(&[b"\xfe\xff", &big[..]].concat()), expected);
    }

    #[test]
    fn what_is_no_text_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        for bytes in [&b"a\0.\0n\0"[..], b"\xff\xfea\0b"] {
            fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("list.txt") && error.contains("UTF-16"), "{error}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_stay_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        fs::write(&path, b"caf\xe9.nii\n").unwrap();
        assert_eq!(read(&path).unwrap()[0].text, OsString::from_vec(b"caf\xe9.nii".to_vec()));
    }
}
