//! Reads all members of a gzip file, and handles bytes after the last one as `gzip` does: zeros (padding of tapes
//! and object stores) are ignored silently, anything else with a warning.
//!
//! flate2's `MultiGzDecoder` would report such bytes as a damaged header.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use super::warnings::warn_once;

const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads the contents of all members of a file.
pub(super) struct GzipMembers {
    path: PathBuf,
    /// The current member; `None` at the end.
    member: Option<GzDecoder<BufReader<File>>>,
}

impl GzipMembers {
    pub(super) fn new(file: BufReader<File>, path: &Path) -> Self {
        Self { path: path.into(), member: Some(GzDecoder::new(file)) }
    }
}

impl Read for GzipMembers {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(mut file) = self.member.take().map(GzDecoder::into_inner) else { break };
            if starts_member(&mut file)? {
                self.member = Some(GzDecoder::new(file));
            } else {
                pass_over_rest(file, &self.path)?;
            }
        }
        Ok(0)
    }
}

/// Whether another member follows. Does not change the position.
fn starts_member(file: &mut BufReader<File>) -> Result<bool> {
    let mut start = [0; 2];
    let mut count = 0;
    while count < start.len() {
        match file.read(&mut start[count..])? {
            0 => break,
            more => count += more,
        }
    }
    file.seek_relative(-(count as i64))?;
    Ok(start[..count] == MAGIC)
}

/// Counts the remaining bytes, and warns unless they are padding.
fn pass_over_rest(mut file: BufReader<File>, path: &Path) -> Result<()> {
    let (mut count, mut is_padding) = (0u64, true);
    loop {
        let rest = file.fill_buf()?;
        let length = rest.len();
        if length == 0 {
            break;
        }
        count += length as u64;
        is_padding &= rest.iter().all(|&byte| byte == 0);
        file.consume(length);
    }
    if !is_padding {
        warn_once(path, format!("{count} bytes after the compressed data are ignored"));
    }
    Ok(())
}
