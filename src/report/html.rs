//! `report.html`: one page that needs nothing but itself, with the figures and pictures of every case.

use std::fmt::{self, Display, Write as _};
use std::ops::Range;
use std::path::Path;

use super::sections::Sections;
use super::summary::{CONVENTIONS, FailedCase, RunSummary};
use super::{Montage, ReportError, class_colour};
use crate::files::write_atomically;
use crate::metrics::ClassMetrics;

/// What the page shows of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseSection {
    /// Name of the case.
    pub case_id: String,
    /// The classes 1, 2, … in order, without the background.
    pub classes: Vec<ClassRow>,
    /// Pictures; absent = none.
    pub montage: Option<Montage>,
}

/// One class of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassRow {
    /// Name and figures; NaN without truth.
    pub metrics: ClassMetrics,
    /// Volume of the prediction, ml.
    pub volume_ml: f64,
    /// Volume of the truth, ml, where there is one.
    pub truth_ml: Option<f64>,
}

impl CaseSection {
    fn has_truth(&self) -> bool {
        self.classes.iter().any(|class| class.truth_ml.is_some())
    }

    fn dice_mean(&self) -> f64 {
        let dice: Vec<f64> =
            self.classes.iter().map(|class| class.metrics.dice).filter(|dice| dice.is_finite()).collect();
        dice.iter().sum::<f64>() / dice.len() as f64
    }
}

/// The page while its run goes on: add cases, write it as often as wanted.
#[derive(Debug)]
pub struct Report {
    cases: Vec<RenderedCase>,
    sections: Sections,
}

#[derive(Debug, Clone)]
struct RenderedCase {
    case_id: String,
    dice_mean: f64,
    /// Where its HTML is in `sections`, bytes.
    html: Range<u64>,
}

impl Report {
    /// A page without cases, which keeps its pictures in `folder` until it is written.
    ///
    /// # Errors
    /// [`ReportError::Io`] where the folder cannot be written to.
    pub fn new(folder: &Path) -> Result<Self, ReportError> {
        Ok(Self { cases: Vec::new(), sections: Sections::new(folder)? })
    }

    /// Adds a case, or puts it in the place of the one with the same name.
    ///
    /// # Errors
    /// [`ReportError::Png`] and [`ReportError::Io`].
    pub fn add_case(&mut self, section: &CaseSection) -> Result<(), ReportError> {
        let rendered = RenderedCase {
            case_id: section.case_id.clone(),
            dice_mean: section.dice_mean(),
            html: self.sections.append(&case_html(section)?)?,
        };
        match self.cases.iter_mut().find(|case| case.case_id == section.case_id) {
            Some(case) => *case = rendered,
            None => self.cases.push(rendered),
        }
        Ok(())
    }

    /// Writes the page with the cases so far; everything else on it is from `summary`.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, path: &Path, summary: &RunSummary) -> Result<(), ReportError> {
        write_atomically(path, |file| {
            write!(file, "{}", Head { cases: &self.cases, summary })?;
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

/// The page up to the sections of the cases.
struct Head<'a> {
    cases: &'a [RenderedCase],
    summary: &'a RunSummary,
}

impl Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, summary } = self;
        let title = Escaped(&summary.model.name);
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
             <title>Segmentation report: {title}</title>\n<style>\n{}</style>\n</head>\n<body>\n\
             <h1>Segmentation report: {title}</h1>\n<p class=\"use\">Not for clinical use</p>\n",
            include_str!("report.css")
        )?;
        write_facts(f, summary)?;
        write_failed(f, &summary.failed)?;
        write_means(f, summary)?;
        f.write_str("<h2>Cases</h2>\n")?;
        write_legend(f, &summary.model.classes)?;
        if summary.dice_mean.is_finite() {
            write_overview(f, cases)?;
        }
        Ok(())
    }
}

fn write_facts(f: &mut fmt::Formatter<'_>, summary: &RunSummary) -> fmt::Result {
    let RunSummary { model, versions, timings, .. } = summary;
    let short = |sha256: &str| sha256.chars().take(12).collect::<String>();
    let seconds = |value| Figure { value, decimals: 1, unit: " s" }.to_string();
    let weights = match &model.adapters_sha256 {
        Some(adapters) => format!("{}, adapters {}", short(&model.weights_sha256), short(adapters)),
        None => short(&model.weights_sha256),
    };
    let facts = [
        ("Cases", format!("{} segmented, {} failed", summary.cases, summary.failed.len())),
        ("Mean Dice", Figure { value: summary.dice_mean, decimals: 4, unit: "" }.to_string()),
        ("Model", format!("{}, {} at {} px", model.name, model.backbone, model.image_size)),
        ("Weights (sha256)", weights),
        ("Device", summary.device.clone()),
        ("Started", summary.started.clone()),
        ("Time", format!("{}, {} a case", seconds(timings.seconds_total), seconds(timings.seconds_per_case))),
        ("Rate", Figure { value: timings.slices_per_second, decimals: 2, unit: " slices/s" }.to_string()),
        ("First result after", seconds(timings.time_to_first_result_s)),
        ("Export", seconds(timings.seconds_export)),
        (
            "Versions",
            format!(
                "self-prompt-sam {}, dora {}, torch {}, tch {}",
                versions.self_prompt_sam, versions.dora, versions.torch, versions.tch
            ),
        ),
    ];
    f.write_str("<dl>\n")?;
    for (name, value) in facts {
        writeln!(f, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(&value))?;
    }
    f.write_str("</dl>\n")
}

fn write_failed(f: &mut fmt::Formatter<'_>, failed: &[FailedCase]) -> fmt::Result {
    if failed.is_empty() {
        return Ok(());
    }
    f.write_str("<h2>Failed cases</h2>\n<div class=\"table\"><table class=\"failed\">\n")?;
    f.write_str("<tr><th>Case</th><th>Reason</th></tr>\n")?;
    for FailedCase { case, error } in failed {
        writeln!(f, "<tr><td>{}</td><td>{}</td></tr>", Escaped(case), Escaped(error))?;
    }
    f.write_str("</table></div>\n")
}

fn write_means(f: &mut fmt::Formatter<'_>, summary: &RunSummary) -> fmt::Result {
    if !summary.dice_mean.is_finite() {
        return Ok(());
    }
    f.write_str("<h2>Means over the cases</h2>\n<div class=\"table\"><table>\n")?;
    f.write_str("<tr><th>Class</th><th>Dice</th><th>HD95 mm</th><th>over cases</th><th>missed in</th><th>NSD</th></tr>\n")?;
    for (index, (name, means)) in summary.classes.iter().enumerate() {
        let class = ClassName { class: index + 1, name };
        let [dice, hd95, nsd] = figures(means.dice, means.hd95_mm, means.nsd);
        let (cases, missed) = (means.hd95_cases, means.missed);
        writeln!(
            f,
            "<tr><td>{class}</td><td>{dice}</td><td>{hd95}</td><td>{cases}</td><td>{missed}</td><td>{nsd}</td></tr>"
        )?;
    }
    f.write_str("</table></div>\n")?;
    for (key, text) in CONVENTIONS.iter().filter(|(key, _)| *key == "absent_class") {
        writeln!(f, "<p class=\"note\" id=\"{key}\">Absent classes: {}.</p>", Escaped(text))?;
    }
    Ok(())
}

fn write_legend(f: &mut fmt::Formatter<'_>, classes: &[String]) -> fmt::Result {
    f.write_str("<ul class=\"legend\">\n")?;
    for (class, name) in classes.iter().enumerate().skip(1) {
        writeln!(f, "<li>{}</li>", ClassName { class, name })?;
    }
    f.write_str("</ul>\n")
}

fn write_overview(f: &mut fmt::Formatter<'_>, cases: &[RenderedCase]) -> fmt::Result {
    f.write_str("<div class=\"table\"><table>\n<tr><th>Case</th><th>Mean Dice</th></tr>\n")?;
    for (index, case) in cases.iter().enumerate() {
        let [dice, ..] = figures(case.dice_mean, f64::NAN, f64::NAN);
        let name = Escaped(&case.case_id);
        writeln!(f, "<tr><td><a href=\"#case-{index}\">{name}</a></td><td>{dice}</td></tr>")?;
    }
    f.write_str("</table></div>\n")
}

fn case_html(section: &CaseSection) -> Result<String, ReportError> {
    let name = Escaped(&section.case_id);
    let mut html = format!("<h3>{name}</h3>\n");
    if let Some(montage) = &section.montage {
        let sides = if montage.has_truth { "truth left, prediction right" } else { "prediction" };
        html.push_str("<div class=\"montage\">\n");
        for panel in &montage.panels {
            let (width, height) = panel.picture.dimensions();
            let caption = format!("slice {}: {sides}", panel.slice);
            html.push_str(&format!(
                "<figure><img width=\"{width}\" height=\"{height}\" alt=\"{name}, {caption}\" \
                 src=\"data:image/png;base64,{}\"><figcaption>{caption}</figcaption></figure>\n",
                panel.png_base64()?
            ));
        }
        html.push_str("</div>\n");
    }
    let has_truth = section.has_truth();
    html.push_str("<div class=\"table\"><table>\n<tr><th>Class</th>");
    if has_truth {
        html.push_str("<th>Dice</th><th>HD95 mm</th><th>NSD</th><th>True volume ml</th>");
    }
    html.push_str("<th>Volume ml</th></tr>\n");
    let millilitres = |value| Figure { value, decimals: 2, unit: "" };
    for (index, row) in section.classes.iter().enumerate() {
        let ClassRow { metrics, volume_ml, truth_ml } = row;
        let class = ClassName { class: index + 1, name: &metrics.class };
        html.push_str(&format!("<tr><td>{class}</td>"));
        if has_truth {
            for figure in figures(metrics.dice, metrics.hd95_mm, metrics.nsd) {
                html.push_str(&format!("<td>{figure}</td>"));
            }
            html.push_str(&format!("<td>{}</td>", millilitres(truth_ml.unwrap_or(f64::NAN))));
        }
        html.push_str(&format!("<td>{}</td></tr>\n", millilitres(*volume_ml)));
    }
    if section.classes.len() > 1 {
        html.push_str("<tr><td>Together</td>");
        if has_truth {
            let truth_ml: f64 = section.classes.iter().filter_map(|row| row.truth_ml).sum();
            html.push_str(&format!("<td></td><td></td><td></td><td>{}</td>", millilitres(truth_ml)));
        }
        let volume_ml: f64 = section.classes.iter().map(|row| row.volume_ml).sum();
        html.push_str(&format!("<td>{}</td></tr>\n", millilitres(volume_ml)));
    }
    html.push_str("</table></div>\n");
    Ok(html)
}

/// Text as it may stand in an element or an attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// A class with its colour.
struct ClassName<'a> {
    class: usize,
    name: &'a str,
}

impl Display for ClassName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some([r, g, b]) = class_colour(self.class) {
            write!(f, "<span class=\"swatch\" style=\"background:#{r:02x}{g:02x}{b:02x}\"></span>")?;
        }
        write!(f, "{}", Escaped(self.name))
    }
}

/// A figure with its unit; "–" where it is not defined.
struct Figure {
    value: f64,
    decimals: usize,
    unit: &'static str,
}

impl Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, decimals, unit } = self;
        if value.is_nan() {
            f.write_str("–")
        } else if value.is_infinite() {
            f.write_str("∞")
        } else {
            write!(f, "{value:.decimals$}{unit}")
        }
    }
}

fn figures(dice: f64, hd95_mm: f64, nsd: f64) -> [Figure; 3] {
    [(dice, 4), (hd95_mm, 2), (nsd, 4)].map(|(value, decimals)| Figure { value, decimals, unit: "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::summary::tests::example;

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
        Report::new(&std::env::temp_dir()).unwrap()
    }

    fn page(report: &Report, summary: &RunSummary) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        report.write(&path, summary).unwrap();
        std::fs::read_to_string(path).unwrap()
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
        let escaped = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;&amp; &lt;img";
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
