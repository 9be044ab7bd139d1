//! Counts how many tests passed, failed and were skipped, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names the file to which tests append a line for each skip: what was skipped, test and reason, separated by tabs
/// (`tests/support/skip.rs`).
pub const SKIP_LOG: &str = "SPSAM_SKIP_LOG";

/// The sums of cargo test's result lines, and what the tests report as skipped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Includes tests that skipped themselves while running, which libtest counts as passed.
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Skipped tests by reason.
    skipped: Tests,
    /// Tests that passed but skipped a part of their checks, by reason.
    in_part: Tests,
}

type Tests = BTreeMap<String, BTreeSet<String>>;

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; ignores any other line.
    pub fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Adds the lines of the file named by [`SKIP_LOG`].
    pub fn add_skips(&mut self, lines: &str) {
        for line in lines.lines() {
            let [what, test, reason] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else { continue };
            let tests = if what == "skipped" { &mut self.skipped } else { &mut self.in_part };
            tests.entry(reason.to_owned()).or_default().insert(test.to_owned());
        }
    }
}

/// Number of different tests, over all reasons.
fn count(tests: &Tests) -> usize {
    tests.values().flatten().collect::<BTreeSet<_>>().len()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = count(&self.skipped);
        let passed = self.passed.saturating_sub(skipped);
        write!(f, "tests: {passed} passed, {} failed, {} skipped", self.failed, skipped + self.ignored)?;
        if !self.in_part.is_empty() {
            write!(f, "; {} of those that passed did so in part", count(&self.in_part))?;
        }
        if self.ignored > 0 {
            write!(f, "\n  skipped {}: marked with #[ignore]", self.ignored)?;
        }
        for (what, reasons) in [("skipped", &self.skipped), ("in part", &self.in_part)] {
            for (reason, tests) in reasons {
                write!(f, "\n  {what} {}: {reason}", tests.len())?;
                // Names are listed only if there are few; for many (such as all GPU tests) the number suffices.
                if tests.len() <= 3 {
                    write!(f, " ({})", tests.iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0s",
            "test points_lie_inside_their_mask ... ok",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 5, failed: 1, ignored: 1, ..Tally::default() });
    }

    #[test]
    fn skipped_tests_count_once_and_not_as_passed() {
        let mut tally = Tally { passed: 5, ..Tally::default() };
        tally.add_skips(
            "skipped\ta::one\tneeds root\nskipped\ta::one\tneeds root\nskipped\tb::two\tneeds root\nin part\tc::three\tno GPU\n",
        );
        assert_eq!(
            tally.to_string(),
            "tests: 3 passed, 0 failed, 2 skipped; 1 of those that passed did so in part\n  \
             skipped 2: needs root (a::one, b::two)\n  in part 1: no GPU (c::three)"
        );
        assert_eq!(
            Tally { passed: 5, ..Tally::default() }.to_string(),
            "tests: 5 passed, 0 failed, 0 skipped"
        );
    }

    #[test]
    fn ignored_tests_are_skipped_tests() {
        let tally = Tally { passed: 1, ignored: 2, ..Tally::default() };
        assert_eq!(
            tally.to_string(),
            "tests: 1 passed, 0 failed, 2 skipped\n  skipped 2: marked with #[ignore]"
        );
    }
}
