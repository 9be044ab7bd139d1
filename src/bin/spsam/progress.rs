//! Progress of a run for the user: on a terminal one line that is updated, elsewhere a line from time to time.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use self_prompt_sam::runtime::Progress;

/// Interval of the lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Steps of the bar.
const STEPS: u64 = 1000;

/// Shows progress and messages on stderr.
pub struct Display {
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    /// Warnings already shown, because several nodes may give the same one.
    warned: BTreeSet<String>,
}

impl Display {
    /// Without a bar if the log is shown (`verbose`) or there is no terminal.
    pub fn new(verbose: bool) -> Self {
        let bar = (!verbose && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(STEPS);
            // The template is constant and valid.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:24} {msg}") {
                bar.set_style(style);
            }
            bar.set_message("starting");
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, last_line: None, warned: BTreeSet::new() }
    }

    pub fn progress(&mut self, progress: &Progress) {
        self.show(share(progress), line(progress));
    }

    /// Shows how much is done (0 to 1), and a line.
    pub fn show(&mut self, share: f64, line: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_position((STEPS as f64 * share.clamp(0.0, 1.0)) as u64);
                bar.set_message(line);
            }
            None if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) => {
                self.last_line = Some(Instant::now());
                self.say(&line);
            }
            None => {}
        }
    }

    /// Shows a line.
    pub fn say(&self, text: &str) {
        // The terminal itself may have been closed.
        let print = || drop(writeln!(io::stderr(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Shows a warning, once.
    pub fn warn(&mut self, text: &str) {
        if self.warned.insert(text.to_owned()) {
            self.say(&format!("warning: {text}"));
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(progress: &Progress) -> String {
    let Progress { case_id, cases_done, cases, windows_done, windows, slices_per_second, seconds_left } =
        progress;
    let case = (cases_done + 1).min(*cases);
    format!(
        "case {case}/{cases} {case_id}: window {windows_done}/{windows}, {slices_per_second:.1} slices/s, \
         {:02}:{:02} left",
        seconds_left / 60,
        seconds_left % 60
    )
}

fn share(progress: &Progress) -> f64 {
    let of_case = progress.windows_done as f64 / progress.windows.max(1) as f64;
    (progress.cases_done as f64 + of_case) / progress.cases.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line_and_a_share_of_all_cases() {
        let progress = Progress {
            case_id: "head".into(),
            cases_done: 1,
            cases: 4,
            windows_done: 3,
            windows: 6,
            slices_per_second: 12.34,
            seconds_left: 83,
        };
        assert_eq!(line(&progress), "case 2/4 head: window 3/6, 12.3 slices/s, 01:23 left");
        assert_eq!(share(&progress), 0.375);
    }
}
