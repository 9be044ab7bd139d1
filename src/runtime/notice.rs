//! What a node tells the command that started its dataflow (`spsam`), a line of JSON each: why it failed, which case failed,
//! how far it is. Without such a command nobody listens, and the log says the same.

use std::env;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Names the pipe that the command listens to.
pub const NOTICES_VARIABLE: &str = "SPSAM_NOTICES";
/// Longest error, bytes: what is written to a pipe at once arrives in one piece up to 4096.
const LONGEST: usize = 3000;

/// Something for the person who has typed the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A node cannot do its work. One line naming the file or setting and the cause.
    Failed {
        /// Name of the node in the dataflow.
        node: String,
        /// Why.
        error: String,
    },
    /// A case could not be segmented; the others go on.
    CaseFailed {
        /// Name of the case.
        case_id: String,
        /// Why.
        error: String,
    },
    /// dora says that another node has died without a word of its own.
    Died {
        /// Name of that node.
        node: String,
        /// What dora knows of it.
        error: String,
    },
    /// A node has ended early because another one has.
    EndedEarly {
        /// Name of the node.
        node: String,
        /// What it missed.
        error: String,
    },
    /// Work that is done.
    Progress(Progress),
    /// A line of the log that a person wants to see: of a training run.
    Said(String),
    /// A warning of the log.
    Warned(String),
}

/// How far a segmentation is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The case that the last window was of.
    pub case_id: String,
    /// Cases complete.
    pub cases_done: usize,
    /// Cases in all.
    pub cases: usize,
    /// Windows of this case that have arrived.
    pub windows_done: usize,
    /// Windows of this case.
    pub windows: usize,
    /// Slices segmented a second, over the whole run.
    pub slices_per_second: f64,
    /// Estimated time to the end, seconds.
    pub seconds_left: u64,
}

/// Tells the command, if there is one. What it cannot take in is dropped: nothing waits for it.
pub fn tell(notice: &Notice) {
    static PIPE: OnceLock<Option<File>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        let path = env::var_os(NOTICES_VARIABLE).filter(|path| !path.is_empty())?;
        File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
    });
    if let Some(mut pipe) = pipe.as_ref()
        && let Ok(mut line) = serde_json::to_string(&shortened(notice))
    {
        line.push('\n');
        let _ = pipe.write_all(line.as_bytes());
    }
}

/// Whether somebody listens.
pub(super) fn is_heard() -> bool {
    env::var_os(NOTICES_VARIABLE).is_some_and(|path| !path.is_empty())
}

fn shortened(notice: &Notice) -> Notice {
    let mut notice = notice.clone();
    match &mut notice {
        Notice::Failed { error: text, .. }
        | Notice::CaseFailed { error: text, .. }
        | Notice::Died { error: text, .. }
        | Notice::EndedEarly { error: text, .. }
        | Notice::Said(text)
        | Notice::Warned(text) => {
            if text.len() > LONGEST {
                text.truncate(text.floor_char_boundary(LONGEST));
                text.push('…');
            }
        }
        Notice::Progress(_) => {}
    }
    notice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_still_fits_one_write_to_a_pipe() {
        let notice = Notice::Failed { node: "image-encoder".into(), error: "ä".repeat(10_000) };
        let line = serde_json::to_string(&shortened(&notice)).unwrap();
        assert!(line.len() < 4096, "{}", line.len());
        let Notice::Failed { error, .. } = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert!(error.starts_with("ää") && error.ends_with('…'));
    }
}
