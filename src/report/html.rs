//! `report.html`: one page that needs nothing but itself, with the figures and pictures of every case.

use std::path::Path;

use super::ReportError;
use maud::Markup;

use super::case_section::{CaseSection, RenderedCase, Sides};
use super::markup::{case_section, comparison, introduction, page_head};
use super::sections::Sections;
use super::summary::RunSummary;
use crate::files::write_atomically;
use crate::metrics::ClassSummary;

/// What a page that compares two results says besides its cases.
#[derive(Debug)]
pub struct Comparison {
    /// Where the first result is.
    pub a: String,
    /// Where the second one is.
    pub b: String,
    /// Cases that only the first has.
    pub only_a: Vec<String>,
    /// Cases that only the second has.
    pub only_b: Vec<String>,
    /// Means over the cases, by class.
    pub classes: Vec<(String, ClassSummary)>,
}

/// The page while its run goes on: add cases, write it as often as wanted.
#[derive(Debug)]
pub struct Report {
    sides: Sides,
    cases: Vec<RenderedCase>,
    sections: Sections,
}

impl Report {
    /// A page without cases, which keeps its pictures in `folder` until it is written.
    ///
    /// # Errors
    /// [`ReportError::Io`] where the folder cannot be written to.
    pub fn new(folder: &Path, sides: Sides) -> Result<Self, ReportError> {
        Ok(Self { sides, cases: Vec::new(), sections: Sections::new(folder)? })
    }

    /// Adds a case, or puts it in the place of the one with the same name.
    ///
    /// # Errors
    /// [`ReportError::Png`] and [`ReportError::Io`].
    pub fn add_case(&mut self, section: &CaseSection) -> Result<(), ReportError> {
        let rendered = RenderedCase {
            case_id: section.case_id.clone(),
            dice_mean: section.dice_mean(),
            html: self.sections.append(&case_section(section, self.sides)?.into_string())?,
        };
        match self.cases.iter_mut().find(|case| case.case_id == section.case_id) {
            Some(case) => *case = rendered,
            None => self.cases.push(rendered),
        }
        Ok(())
    }

    /// Keeps only the newest `most` cases, and releases the disk space of the others; for runs without an end. Space is
    /// released when there are twice as many.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn forget_old(&mut self, most: usize, folder: &Path) -> Result<(), ReportError> {
        if self.cases.len() < 2 * most {
            return Ok(());
        }
        self.cases.drain(..self.cases.len() - most);
        let mut kept = Sections::new(folder)?;
        for case in &mut self.cases {
            let mut html = Vec::new();
            self.sections.copy(&case.html, &mut html).map_err(ReportError::io(folder))?;
            case.html = kept.append(&String::from_utf8_lossy(&html))?;
        }
        self.sections = kept;
        Ok(())
    }

    /// Writes the page with the cases so far; everything else on it is from `summary`.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, path: &Path, summary: &RunSummary) -> Result<(), ReportError> {
        let title = format!("Segmentation report: {}", summary.model.name);
        self.write_page(path, &title, introduction(&title, &self.cases, summary))
    }

    /// Writes the page of a comparison of two results with the cases so far.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write_comparison(&self, path: &Path, compared: &Comparison) -> Result<(), ReportError> {
        let title = "Comparison of two results";
        self.write_page(path, title, comparison(title, &self.cases, compared))
    }

    fn write_page(&self, path: &Path, title: &str, introduction: Markup) -> Result<(), ReportError> {
        write_atomically(path, |file| {
            let head = page_head(title, include_str!("report.css")).into_string();
            let introduction = introduction.into_string();
            write!(file, "<!DOCTYPE html>\n<html lang=\"en\">\n{head}\n<body>\n{introduction}\n")?;
            for (index, case) in self.cases.iter().enumerate() {
                writeln!(file, "<section class=\"case\" id=\"case-{index}\">")?;
                self.sections.copy(&case.html, file)?;
                writeln!(file, "</section>")?;
            }
            file.write_all(b"</body>\n</html>\n")
        })
        .map_err(ReportError::io(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ClassMetrics;
    use crate::report::summary::FailedCase;
    use crate::report::summary::tests::example;
    use crate::report::{ClassRow, LiveFigures, Part, Percentiles};

    fn row(class: &str, dice: f64, hd95_mm: f64) -> ClassRow {
        let metrics = ClassMetrics { dice, hd95_mm, nsd: 0.5, ..ClassMetrics::undefined(class) };
        ClassRow { metrics, volume_ml: 12.345, truth_ml: Some(11.0) }
    }

    fn section(case_id: &str, dice: f64) -> CaseSection {
        CaseSection {
            case_id: case_id.into(),
            classes: vec![row("spleen", dice, 1.234), row("liver", f64::NAN, f64::INFINITY)],
            montage: None,
        }
    }

    fn new_report() -> Report {
        Report::new(&std::env::temp_dir(), Sides::TRUTH).unwrap()
    }

    fn page(report: &Report, summary: &RunSummary) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        report.write(&path, summary).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_times_of_live_masks_are_on_the_page_by_part() {
        let part = Part { p50: 0.125, p95: 0.25 };
        let figures = Percentiles {
            images: 7,
            p50: 0.4,
            p95: 0.61,
            max: 1.5,
            parts: [("image-<encoder>".to_owned(), part)].into(),
        };
        let live = Some(LiveFigures { provisional: Some(figures), complete: None });
        let page = page(&new_report(), &RunSummary { live, ..example() });
        for text in [
            "Provisional masks",
            "7 images",
            "400 ms",
            "610 ms",
            "1500 ms",
            "image-&lt;encoder&gt;",
            "125 ms",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("Masks of complete series"));
    }

    #[test]
    fn old_cases_of_a_run_without_an_end_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new(folder.path(), Sides::TRUTH).unwrap();
        for number in 0..6 {
            report.add_case(&section(&format!("case_{number}"), 0.5)).unwrap();
            report.forget_old(3, folder.path()).unwrap();
        }
        let path = folder.path().join("report.html");
        report.write(&path, &example()).unwrap();
        let page = std::fs::read_to_string(path).unwrap();
        let is_there = |number: usize| page.contains(&format!("case_{number}"));
        assert_eq!((0..6).map(is_there).collect::<Vec<_>>(), [false, false, false, true, true, true]);
    }

    #[test]
    fn hostile_names_are_text() {
        const HOSTILE: &str = "<script>alert('x')</script>\" onload=\"& <img src=http://x>";
        let mut summary = example();
        summary.model.name = HOSTILE.into();
        summary.model.classes[1] = HOSTILE.into();
        summary.classes[0].0 = HOSTILE.into();
        summary.device = HOSTILE.into();
        summary.failed = vec![FailedCase { case: HOSTILE.into(), error: HOSTILE.into() }];
        let mut report = new_report();
        let mut section = section(HOSTILE, 0.5);
        section.classes[0].metrics.class = HOSTILE.into();
        report.add_case(&section).unwrap();
        let html = page(&report, &summary);
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("onload=\""));
        let escaped = "&lt;script&gt;alert('x')&lt;/script&gt;&quot; onload=&quot;&amp; &lt;img";
        assert_eq!(html.matches(escaped).count(), 11, "every place shows the name");
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let mut report = new_report();
        report.add_case(&section("c1", 0.5)).unwrap();
        let html = page(&report, &example());
        for outside in ["http://", "https://", "<link", "<script", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn every_case_failed_or_not_is_on_the_page_with_its_figures() {
        let mut report = new_report();
        report.add_case(&section("c1", 0.91234)).unwrap();
        report.add_case(&section("c2", 0.5)).unwrap();
        let html = page(&report, &example());
        let cells = "<td>0.9123</td><td>1.23</td><td>0.5000</td><td>11.00</td><td>12.35</td>";
        assert!(html.contains(cells) || html.contains(&cells.replace("12.35", "12.34")));
        assert!(html.contains("<td>–</td><td>∞</td>"));
        assert!(html.contains("<td>Together</td><td></td><td></td><td></td><td>22.00</td><td>24.69</td>"));
        assert!(html.contains("<h3>c1</h3>") && html.contains("<h3>c2</h3>"));
        assert!(html.contains("<td>c3</td><td>c3.nii.gz: truncated</td>"));
        assert!(html.contains("Not for clinical use") && html.contains("left out of all means"));
        for fact in ["2 segmented, 1 failed", "0.8750", "lite_medsam", "2.11.0", "2.50 slices/s", "cpu"] {
            assert!(html.contains(fact), "{fact}");
        }
    }

    #[test]
    fn a_case_added_again_takes_its_own_place() {
        let mut report = new_report();
        report.add_case(&section("c1", 0.25)).unwrap();
        report.add_case(&section("c2", 0.5)).unwrap();
        report.add_case(&section("c1", 0.75)).unwrap();
        let html = page(&report, &example());
        assert_eq!(html.matches("<h3>c1</h3>").count(), 1);
        assert!(html.find("<h3>c1</h3>").unwrap() < html.find("<h3>c2</h3>").unwrap());
        assert!(html.contains("<td>0.7500</td>") && !html.contains("<td>0.2500</td>"));
    }

    #[test]
    fn without_truth_only_volumes_are_shown() {
        let mut section = section("c1", f64::NAN);
        section.classes.iter_mut().for_each(|class| class.truth_ml = None);
        let mut report = new_report();
        report.add_case(&section).unwrap();
        let html = page(&report, &RunSummary { dice_mean: f64::NAN, ..example() });
        assert!(html.contains("<th>Volume ml</th>") && !html.contains("<th>Dice</th>"));
    }
}
