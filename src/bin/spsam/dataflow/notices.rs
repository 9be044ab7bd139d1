//! The nodes' notices to `spsam`, and which of them explain a failure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use self_prompt_sam::runtime::Notice;

/// The line that ends the reader thread.
const END: &str = "end";

/// The pipe to which nodes write. It stays open here, so that nodes can open it at any time.
pub struct Notices {
    writer: PipeWriter,
    received: Receiver<Notice>,
}

impl Notices {
    pub fn listen() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let (sender, received) = mpsc::channel();
        thread::Builder::new().name("notices".into()).spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if line == END {
                    return;
                }
                // Lines that are not notices are ignored.
                let notice = serde_json::from_str(&line);
                if notice.is_ok_and(|notice| sender.send(notice).is_err()) {
                    return;
                }
            }
        })?;
        Ok(Self { writer, received })
    }

    /// Path of the pipe, for other processes of this user.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.writer.as_raw_fd()).into()
    }

    /// Notices received since the last call.
    pub fn new_ones(&self) -> Vec<Notice> {
        self.received.try_iter().collect()
    }

    /// All remaining notices, after the last node has ended.
    pub fn rest(mut self) -> Vec<Notice> {
        // Does not block: the pipe is being read.
        let _ = writeln!(self.writer, "{END}");
        self.received.iter().collect()
    }
}

/// Why a run failed.
#[derive(Debug, Default)]
pub struct Reasons {
    failed: Vec<String>,
    cases: BTreeMap<String, String>,
    died: BTreeMap<String, String>,
    ended_early: Vec<String>,
}

impl Reasons {
    /// Records a notice if it concerns a failure.
    pub fn add(&mut self, notice: &Notice) {
        match notice {
            Notice::Failed { error, .. } => self.failed.push(error.clone()),
            Notice::CaseFailed { case_id, error } => {
                self.cases.insert(case_id.clone(), error.clone());
            }
            Notice::Died { node, error } => {
                self.died.entry(node.clone()).or_insert_with(|| error.clone());
            }
            Notice::EndedEarly { node, error } => self.ended_early.push(format!("{node}: {error}")),
            Notice::Progress(_) | Notice::Said(_) | Notice::Warned(_) => {}
        }
    }

    /// Whether a node has reported that it cannot work.
    pub fn is_lost(&self) -> bool {
        !self.failed.is_empty()
    }

    /// One line per cause, without consequences. Nodes with the same cause give one line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.cases.values().cloned().collect();
        for error in &self.failed {
            let is_said = |line: &String| {
                line.contains(error.as_str())
                    || error.contains(line.as_str())
                    || is_same_full_disk(line, error)
            };
            if !lines.iter().any(is_said) {
                lines.push(error.clone());
            }
        }
        if lines.is_empty() {
            lines.extend(self.died.iter().map(|(node, error)| format!("node {node} died: {error}")));
        }
        if lines.is_empty() {
            lines.extend(self.ended_early.first().cloned());
        }
        lines
    }
}

/// Whether two files could not be written because the disk or the quota (`EDQUOT`) is used up.
fn is_same_full_disk(a: &str, b: &str) -> bool {
    ["(os error 28)", "(os error 122)"].iter().any(|full| a.ends_with(full) && b.ends_with(full))
}

/// The last line of a log with ERROR, for a run whose nodes have sent no notice.
pub fn last_error(log: File) -> Option<String> {
    let lines = BufReader::new(log).lines().map_while(Result::ok);
    lines.filter(|line| line.contains("ERROR")).last().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(node: &str, error: &str) -> Notice {
        Notice::Failed { node: node.into(), error: error.into() }
    }

    fn early(node: &str) -> Notice {
        Notice::EndedEarly { node: node.into(), error: "the input closed".into() }
    }

    fn lines(notices: &[Notice]) -> Vec<String> {
        let mut reasons = Reasons::default();
        for notice in notices {
            reasons.add(notice);
        }
        reasons.lines()
    }

    #[test]
    fn one_cause_is_one_line_and_its_consequences_none() {
        let error = "model.yml: unknown field `colour`";
        let all = ["image-encoder", "volume-loader", "mask-decoder"].map(|node| failed(node, error));
        assert_eq!(lines(&all), [error]);
        assert_eq!(lines(&[early("metrics-writer"), failed("image-encoder", error)]), [error]);
        let told_by_the_lead = [failed("a", "weights: no space"), failed("b", "encoder: weights: no space")];
        assert_eq!(lines(&told_by_the_lead), ["weights: no space"]);
    }

    #[test]
    fn a_full_disk_is_one_cause_and_files_that_are_missing_are_several() {
        let case = |error: &str| Notice::CaseFailed { case_id: "a".into(), error: error.into() };
        let full = "case a: out: No space left on device (os error 28)";
        let report = failed("metrics-writer", "out/metrics.csv: No space left on device (os error 28)");
        assert_eq!(lines(&[case(full), report]), [full]);
        let [a, b] =
            ["a: No such file or directory (os error 2)", "b: No such file or directory (os error 2)"];
        assert_eq!(lines(&[case(a), failed("mask-decoder", b)]), [a, b]);
    }

    #[test]
    fn every_failed_case_has_its_line_once() {
        let case =
            |id: &str| Notice::CaseFailed { case_id: id.into(), error: format!("{id}.nii.gz: cut short") };
        assert_eq!(lines(&[case("b"), case("a"), case("b")]), ["a.nii.gz: cut short", "b.nii.gz: cut short"]);
    }

    #[test]
    fn a_node_that_was_killed_is_named_and_those_that_waited_for_it_are_not() {
        let died = Notice::Died { node: "mask-decoder".into(), error: "signal SIGKILL".into() };
        assert_eq!(lines(&[early("metrics-writer"), died]), ["node mask-decoder died: signal SIGKILL"]);
        assert_eq!(lines(&[early("metrics-writer")]), ["metrics-writer: the input closed"]);
    }

    #[test]
    fn notices_come_through_the_pipe_by_its_name() {
        let notices = Notices::listen().unwrap();
        let mut pipe = File::options().write(true).open(notices.path()).unwrap();
        writeln!(pipe, "{}", serde_json::to_string(&early("a")).unwrap()).unwrap();
        writeln!(pipe, "noise").unwrap();
        assert_eq!(notices.rest(), [early("a")]);
    }
}
