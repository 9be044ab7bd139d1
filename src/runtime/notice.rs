//! Notices from a node to the command that started its dataflow (`spsam`), one line of JSON each: why it failed,
//! which case failed, how far it is. Without such a command they are not sent; the log has the same information.

use std::env;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Variable with the path of the pipe that the command reads.
pub const NOTICES_VARIABLE: &str = "SPSAM_NOTICES";
/// Longest error, bytes: a single write to a pipe arrives in one piece up to 4096 bytes.
const LONGEST: usize = 3000;

/// A notice for the user of the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A node cannot work: one line naming the file or setting and the cause.
    Failed {
        /// Name of the node in the dataflow.
        node: String,
        /// The cause.
        error: String,
    },
    /// A case could not be segmented; the others go on.
    CaseFailed {
        /// Name of the case.
        case_id: String,
        /// Why.
        error: String,
    },
    /// dora reports that another node has died without giving a cause.
    Died {
        /// Name of that node.
        node: String,
        /// dora's description.
        error: String,
    },
    /// A node has ended early because another node has.
    EndedEarly {
        /// Name of the node.
        node: String,
        /// What it was waiting for.
        error: String,
    },
    /// Progress of the segmentation.
    Progress(Progress),
    /// A line of a training's log for the user.
    Said(String),
    /// A warning of the log.
    Warned(String),
}

/// Progress of a segmentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The case of the last window.
    pub case_id: String,
    /// Number of complete cases.
    pub cases_done: usize,
    /// Total number of cases.
    pub cases: usize,
    /// Windows of this case that have arrived.
    pub windows_done: usize,
    /// Windows of this case.
    pub windows: usize,
    /// Slices segmented per second, over the whole run.
    pub slices_per_second: f64,
    /// Estimated time to the end, seconds.
    pub seconds_left: u64,
}

/// Sends a notice to the command, if there is one. A notice that the pipe cannot take is dropped, so that nothing
/// waits.
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

/// Whether a command is listening.
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
