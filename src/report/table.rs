//! `metrics.csv`: one line per case and class, with the columns case, class, dice, hd95_mm, nsd. A figure
//! that is not defined is `NaN`, a distance to an empty mask `inf`.

use std::io;
use std::path::Path;

use super::ReportError;
use crate::files::write_atomically;
use crate::metrics::CaseMetrics;

/// Writes the table anew with all cases so far.
///
/// # Errors
/// [`ReportError::Io`].
pub fn write_metrics(path: &Path, cases: &[CaseMetrics]) -> Result<(), ReportError> {
    write_atomically(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(["case", "class", "dice", "hd95_mm", "nsd"])?;
        for case in cases {
            for class in &case.classes {
                let row = (&case.case_id, &class.class, class.dice, class.hd95_mm, class.nsd);
                table.serialize(row).map_err(io::Error::from)?;
            }
        }
        table.flush()
    })
    .map_err(ReportError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ClassMetrics;

    #[test]
    fn the_table_reads_back() {
        let class = |class: &str, dice, hd95_mm, nsd| ClassMetrics {
            dice,
            hd95_mm,
            nsd,
            ..ClassMetrics::undefined(class)
        };
        let cases = [
            CaseMetrics {
                case_id: "plain".into(),
                classes: vec![class("LV", 0.1 + 0.2, 1.5, 1.0), class("RV", f64::NAN, f64::NAN, f64::NAN)],
            },
            CaseMetrics {
                case_id: "quoted \"name\", with comma\nand line".into(),
                classes: vec![class("LV", 0.0, f64::INFINITY, 0.0)],
            },
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        write_metrics(&path, &cases).unwrap();

        let mut reader = csv::Reader::from_path(&path).unwrap();
        assert_eq!(reader.headers().unwrap(), vec!["case", "class", "dice", "hd95_mm", "nsd"]);
        let rows: Vec<(String, String, f64, f64, f64)> = reader.deserialize().map(Result::unwrap).collect();
        let expected: Vec<_> = cases
            .iter()
            .flat_map(|case| case.classes.iter().map(|class| (case.case_id.clone(), class)))
            .collect();
        assert_eq!(rows.len(), expected.len());
        for (row, (case_id, class)) in rows.iter().zip(expected) {
            assert_eq!((&row.0, &row.1), (&case_id, &class.class));
            for (read, written) in [(row.2, class.dice), (row.3, class.hd95_mm), (row.4, class.nsd)] {
                assert!(read == written || (read.is_nan() && written.is_nan()), "{read} {written}");
            }
        }
    }

    #[test]
    fn without_cases_the_table_has_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        write_metrics(&path, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "case,class,dice,hd95_mm,nsd\n");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/metrics.csv");
        let error = write_metrics(&path, &[]).unwrap_err().to_string();
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
}
