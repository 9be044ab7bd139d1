//! The survey as text.

use std::fmt::{self, Display};

use super::fingerprint::{Channel, Range};
use super::{Fingerprint, Severity, Survey};

impl Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.dataset.display(), self.fingerprint)?;
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let count = |severity| self.problems.iter().filter(|problem| problem.severity == severity).count();
        let [errors, warnings] = [Severity::Error, Severity::Warning].map(count);
        write!(f, "{errors} errors, {warnings} warnings")
    }
}

impl Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cases, {} with labels", self.cases, self.with_labels)?;
        if self.cases == 0 {
            return Ok(());
        }
        let axes =
            |ranges: &[Range; 3], of: fn(&Range) -> f64| ranges.map(|range| short(of(&range))).join(" x ");
        let (shape, spacing) = (&self.shape, &self.spacing_mm);
        for (name, ranges, unit) in [("voxels    ", shape, ""), ("voxel size", spacing, " mm")] {
            writeln!(
                f,
                "{name}   median {}{unit}, from {} to {}{unit}",
                axes(ranges, |range| range.median),
                axes(ranges, |range| range.min),
                axes(ranges, |range| range.max)
            )?;
        }
        let Range { median, max, .. } = self.anisotropy;
        writeln!(
            f,
            "longest over shortest side of a voxel   median {}, at most {}",
            short(median),
            short(max)
        )?;
        let orientations: Vec<String> =
            self.orientations.iter().map(|(code, cases)| format!("{code} ({cases} cases)")).collect();
        writeln!(f, "stored as   {}", orientations.join(", "))?;
        for (index, channel) in self.channels.iter().enumerate() {
            writeln!(f, "channel {index}   {channel}")?;
        }
        for class in &self.classes {
            let name = match (&class.name, class.ignored) {
                (_, true) => "(ignored)",
                (Some(name), _) => name.as_str(),
                (None, _) => "",
            };
            let (value, voxels, cases) = (class.value, class.voxels, class.cases);
            writeln!(f, "label {value:<3} {name:<20} {voxels:>12} voxels in {cases} cases")?;
        }
        Ok(())
    }
}

impl Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, percentile_0_5, median, percentile_99_5, max, .. } = self;
        let [min, low, median, high, max] =
            [min, percentile_0_5, median, percentile_99_5, max].map(|&value| short(value));
        let looks_like = if self.looks_like == "CT" { "CT in Hounsfield units" } else { "MR or other" };
        write!(f, "from {min} to {max}, median {median}, 0.5 % {low}, 99.5 % {high}: {looks_like}")?;
        if let Some(within) = &self.within_classes {
            let [low, mean, std, high] =
                [within.percentile_0_5, within.mean, within.std, within.percentile_99_5].map(short);
            write!(f, "; within classes mean {mean}, std {std}, 0.5 % {low}, 99.5 % {high}")?;
        }
        Ok(())
    }
}

/// Rounds to four significant digits.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts = [-1024.0, 0.0, 1.25, 35.0, 99.999, 123.46, 100.0].map(short);
        assert_eq!(texts, ["-1024", "0", "1.25", "35", "100", "123.5", "100"]);
    }
}
