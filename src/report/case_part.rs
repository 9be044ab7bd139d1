//! Runs that share the cases of an input and the folder of the results.

/// A part of the cases: those whose number, from 0, leaves the remainder `index` when divided by `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CasePart {
    index: usize,
    count: usize,
}

impl CasePart {
    /// All cases.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Part `index`, from 0, of `count`.
    ///
    /// # Errors
    /// There is no such part.
    pub fn new(index: usize, count: usize) -> Result<Self, String> {
        match index < count {
            true => Ok(Self { index, count }),
            false => Err(format!("part {index} of {count} does not exist: parts are counted from 0")),
        }
    }

    /// Whether case number `case`, from 0, is in the part.
    pub fn takes(self, case: usize) -> bool {
        case % self.count == self.index
    }

    /// Name of a file that each part writes for itself: `metrics_0of4.csv` for `metrics.csv`.
    pub fn name(self, file: &str) -> String {
        if self == Self::WHOLE {
            return file.into();
        }
        let Self { index, count } = self;
        match file.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) {
            Some((stem, extension)) => format!("{stem}_{index}of{count}.{extension}"),
            None => format!("{file}_{index}of{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_in_one_part_and_files_differ() {
        let parts: Vec<CasePart> = (0..3).map(|index| CasePart::new(index, 3).unwrap()).collect();
        for case in 0..10 {
            assert_eq!(parts.iter().filter(|part| part.takes(case)).count(), 1);
        }
        assert!((0..10).all(|case| CasePart::WHOLE.takes(case)));
        assert!(CasePart::new(3, 3).is_err() && CasePart::new(0, 0).is_err());
        assert_eq!(parts[2].name("metrics.csv"), "metrics_2of3.csv");
        assert_eq!(parts[0].name(".outbox"), ".outbox_0of3");
        assert_eq!(CasePart::WHOLE.name("metrics.csv"), "metrics.csv");
        assert_eq!(CasePart::new(0, 1), Ok(CasePart::WHOLE));
    }
}
