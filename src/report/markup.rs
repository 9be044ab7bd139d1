//! The parts of `report.html`. All text that does not come from this file is escaped.

use std::fmt::{self, Display};

use maud::{Markup, PreEscaped, html};

use super::case_section::{CaseSection, ClassRow, RenderedCase, Sides};
use super::summary::{CONVENTIONS, FailedCase, RunSummary};
use super::{Comparison, LiveFigures, ReportError, class_colour};
use crate::metrics::ClassSummary;

/// The `head` of a page that loads nothing from elsewhere.
pub fn page_head(title: &str, css: &str) -> Markup {
    let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta http-equiv="Content-Security-Policy" content=(policy);
            title { (title) }
            style { (PreEscaped(css)) }
        }
    }
}

/// The part of the page before the sections of the cases.
pub(super) fn introduction(title: &str, cases: &[RenderedCase], summary: &RunSummary) -> Markup {
    let has_truth = summary.dice_mean.is_finite();
    html! {
        h1 { (title) }
        p.use { "Not for clinical use" }
        dl { @for (name, value) in facts(summary) { div { dt { (name) } dd { (value) } } } }
        @if !summary.failed.is_empty() { (failed(&summary.failed)) }
        @if has_truth { (means(&summary.classes)) }
        @if let Some(live) = &summary.live { (latencies(live)) }
        h2 { "Cases" }
        ul.legend {
            @for (class, name) in summary.model.classes.iter().enumerate().skip(1) {
                li { (class_name(class, name)) }
            }
        }
        @if has_truth { (overview(cases)) }
    }
}

/// The part of a page that compares two results before the sections of the cases.
pub(super) fn comparison(title: &str, cases: &[RenderedCase], comparison: &Comparison) -> Markup {
    let Comparison { a, b, only_a, only_b, classes } = comparison;
    let only = [("Only in A", only_a), ("Only in B", only_b)];
    html! {
        h1 { (title) }
        p.use { "Not for clinical use" }
        dl {
            div { dt { "A" } dd { (a) } }
            div { dt { "B" } dd { (b) } }
            div { dt { "Cases in both" } dd { (cases.len()) } }
            @for (what, names) in only.into_iter().filter(|(_, names)| !names.is_empty()) {
                div { dt { (what) } dd { (names.join(", ")) } }
            }
        }
        (means(classes))
        h2 { "Cases" }
        ul.legend {
            @for (index, (name, _)) in classes.iter().enumerate() { li { (class_name(index + 1, name)) } }
        }
        (overview(cases))
    }
}

fn facts(summary: &RunSummary) -> [(&'static str, String); 11] {
    let RunSummary { model, versions, timings, .. } = summary;
    let short = |sha256: &str| sha256.chars().take(12).collect::<String>();
    let seconds = |value| Figure { value, decimals: 1, unit: " s" }.to_string();
    let weights = match &model.adapters_sha256 {
        Some(adapters) => format!("{}, adapters {}", short(&model.weights_sha256), short(adapters)),
        None => short(&model.weights_sha256),
    };
    [
        ("Cases", format!("{} segmented, {} failed", summary.cases, summary.failed.len())),
        ("Mean Dice", Figure { value: summary.dice_mean, decimals: 4, unit: "" }.to_string()),
        ("Model", format!("{}, {} at {} px", model.name, model.backbone, model.image_size)),
        ("Weights (sha256)", weights),
        ("Device", summary.device.clone()),
        ("Started", summary.started.clone()),
        (
            "Time",
            format!("{}, {} per case", seconds(timings.seconds_total), seconds(timings.seconds_per_case)),
        ),
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
    ]
}

fn failed(failed: &[FailedCase]) -> Markup {
    html! {
        h2 { "Failed cases" }
        div.table { table.failed {
            tr { th { "Case" } th { "Reason" } }
            @for FailedCase { case, error } in failed { tr { td { (case) } td { (error) } } }
        } }
    }
}

fn means(classes: &[(String, ClassSummary)]) -> Markup {
    html! {
        h2 { "Means over the cases" }
        div.table { table {
            tr {
                th { "Class" } th { "Dice" } th { "HD95 mm" } th { "over cases" } th { "missed in" } th { "NSD" }
            }
            @for (index, (name, means)) in classes.iter().enumerate() {
                @let [dice, hd95, nsd] = figures(means.dice, means.hd95_mm, means.nsd);
                tr {
                    td { (class_name(index + 1, name)) }
                    td { (dice) } td { (hd95) } td { (means.hd95_cases) } td { (means.missed) } td { (nsd) }
                }
            }
        } }
        @for (key, text) in CONVENTIONS.iter().filter(|(key, _)| *key == "absent_class") {
            p.note id=(key) { "Absent classes: " (text) "." }
        }
    }
}

/// How long masks took, and the parts of it.
fn latencies(live: &LiveFigures) -> Markup {
    let ms = |seconds: f64| format!("{:.0} ms", 1e3 * seconds);
    let kinds = [("Provisional masks", &live.provisional), ("Masks of complete series", &live.complete)];
    html! {
        h2 { "From the last byte of an image to its mask" }
        @for (kind, figures) in kinds.into_iter().filter_map(|(kind, figures)| Some((kind, figures.as_ref()?))) {
            div.table { table.live {
                tr { th { (kind) } th { "Median" } th { "95th percentile" } th { "Slowest" } }
                tr { td { (figures.images) " images" } td { (ms(figures.p50)) } td { (ms(figures.p95)) } td { (ms(figures.max)) } }
                @for (name, part) in &figures.parts {
                    tr { td { (name) } td { (ms(part.p50)) } td { (ms(part.p95)) } td {} }
                }
            } }
        }
        p.note {
            "receive: until the image is at the loader; queue: until its case is planned; then the work of each node on the "
            "windows of the case; between: on the way, and waiting for other windows."
        }
    }
}

fn overview(cases: &[RenderedCase]) -> Markup {
    html! {
        div.table { table {
            tr { th { "Case" } th { "Mean Dice" } }
            @for (index, case) in cases.iter().enumerate() {
                tr {
                    td { a href={ "#case-" (index) } { (case.case_id) } }
                    td { (Figure { value: case.dice_mean, decimals: 4, unit: "" }) }
                }
            }
        } }
    }
}

/// Pictures and metrics of one case.
///
/// # Errors
/// [`ReportError::Png`].
pub(super) fn case_section(section: &CaseSection, sides: Sides) -> Result<Markup, ReportError> {
    let pictures = pictures(section, sides)?;
    let has_truth = section.has_truth();
    let of_all = |of: fn(&ClassRow) -> Option<f64>| section.classes.iter().filter_map(of).sum::<f64>();
    Ok(html! {
        h3 { (section.case_id) }
        (pictures)
        div.table { table {
            tr {
                th { "Class" }
                @if has_truth { th { "Dice" } th { "HD95 mm" } th { "NSD" } th { "Volume ml, " (sides.left) } }
                th { "Volume ml" @if has_truth { ", " (sides.right) } }
            }
            @for (index, row) in section.classes.iter().enumerate() {
                tr {
                    td { (class_name(index + 1, &row.metrics.class)) }
                    @if has_truth {
                        @for figure in figures(row.metrics.dice, row.metrics.hd95_mm, row.metrics.nsd) {
                            td { (figure) }
                        }
                        td { (millilitres(row.truth_ml.unwrap_or(f64::NAN))) }
                    }
                    td { (millilitres(row.volume_ml)) }
                }
            }
            @if section.classes.len() > 1 {
                tr {
                    td { "Together" }
                    @if has_truth { td {} td {} td {} td { (millilitres(of_all(|row| row.truth_ml))) } }
                    td { (millilitres(of_all(|row| Some(row.volume_ml)))) }
                }
            }
        } }
    })
}

fn pictures(section: &CaseSection, sides: Sides) -> Result<Markup, ReportError> {
    let Some(montage) = &section.montage else { return Ok(PreEscaped(String::new())) };
    let Sides { left, right } = sides;
    let sides = if montage.has_truth { format!("{left} left, {right} right") } else { right.to_owned() };
    let mut figures = Vec::with_capacity(montage.panels.len());
    for panel in &montage.panels {
        let (width, height) = panel.picture.dimensions();
        let caption = format!("slice {}: {sides}", panel.slice);
        let png = panel.png_base64()?;
        figures.push(html! {
            figure {
                img width=(width) height=(height) alt={ (section.case_id) ", " (caption) }
                    src={ "data:image/png;base64," (png) };
                figcaption { (caption) }
            }
        });
    }
    Ok(html! { div.montage { @for figure in figures { (figure) } } })
}

/// A class with its colour.
fn class_name(class: usize, name: &str) -> Markup {
    html! {
        @if let Some([r, g, b]) = class_colour(class) {
            span.swatch style=(format!("background:#{r:02x}{g:02x}{b:02x}")) {}
        }
        (name)
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

fn millilitres(value: f64) -> Figure {
    Figure { value, decimals: 2, unit: "" }
}

fn figures(dice: f64, hd95_mm: f64, nsd: f64) -> [Figure; 3] {
    [(dice, 4), (hd95_mm, 2), (nsd, 4)].map(|(value, decimals)| Figure { value, decimals, unit: "" })
}
