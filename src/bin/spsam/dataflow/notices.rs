//! What the nodes of a run tell `spsam`, and what of it explains a failure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use self_prompt_sam::runtime::Notice;

/// The line that ends listening.
const END: &str = "end";

/// The pipe that nodes write to. It stays open here, so that they find it at any time.
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
                // What is no notice is nobody's business.
                let notice = serde_json::from_str(&line);
                if notice.is_ok_and(|notice| sender.send(notice).is_err()) {
                    return;
                }
            }
        })?;
        Ok(Self { writer, received })
    }

    /// Name of the pipe, for other processes of this user.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.writer.as_raw_fd()).into()
    }

    /// What has come since the last call.
    pub fn new_ones(&self) -> Vec<Notice> {
        self.received.try_iter().collect()
    }

    /// All the rest, after the last node has ended.
    pub fn rest(mut self) -> Vec<Notice> {
        // A full pipe is being read.
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
    /// Keeps what a notice says of a failure.
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

    /// Whether a node has said that it cannot do its work.
    pub fn is_lost(&self) -> bool {
        !self.failed.is_empty()
    }

    /// One line for each cause, what follows from a cause left out. Nodes with the same cause say it once.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.cases.values().cloned().collect();
        for error in &self.failed {
            let is_said = |line: &String| line.contains(error.as_str()) || error.contains(line.as_str());
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

/// The last line of a log that says ERROR, for a run whose nodes have told nothing.
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
