//! `training.html`: the curves of a run on a self-contained page.

use std::path::Path;

use maud::{DOCTYPE, Markup, html};

use super::history::{History, Point};
use crate::files::write_atomically;
use crate::report::{class_colour, page_head};
use crate::training::error::TrainingError;
use crate::training::optimise::Stage;

/// Size of a chart and the margins of its axes, pixels.
const SIZE: [f64; 2] = [720.0, 240.0];
const MARGIN: [f64; 2] = [56.0, 24.0];
/// Most points drawn of a curve; curves with more are thinned out.
const MOST_POINTS: usize = 1000;

/// A named curve.
struct Curve {
    name: String,
    colour: [u8; 3],
    points: Vec<(f64, f64)>,
}

/// Writes the page.
///
/// # Errors
/// [`TrainingError::Io`].
pub fn write_page(path: &Path, name: &str, history: &History) -> Result<(), TrainingError> {
    let html = page(name, history).into_string();
    write_atomically(path, |file| file.write_all(html.as_bytes())).map_err(TrainingError::io(path))
}

const CSS: &str =
    "body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 48rem; padding: 0 1rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; }
td, th { padding: 0.2rem 0.8rem; text-align: right; }
.key { display: inline-block; margin-right: 1rem; }
.key i { display: inline-block; width: 1rem; height: 0.2rem; vertical-align: middle; margin-right: 0.3rem; }";

fn page(name: &str, history: &History) -> Markup {
    let title = format!("Training: {name}");
    html! {
        (DOCTYPE)
        html lang="en" {
            (page_head(&title, CSS))
            body {
                h1 { (title) }
                p { (facts(history)) }
                @for (title, curves) in charts(history) { (chart(title, &curves)) }
                (validations(history))
            }
        }
    }
}

fn facts(history: &History) -> String {
    let Some(last) = history.points.last() else { return "Nothing yet.".into() };
    let stage = match last.stage {
        Stage::GeneratorOnly => "generator only",
        Stage::Full => "generator and decoder",
    };
    format!(
        "{} steps in {:.2} hours, {:.1} slices/s at last, {:.1}% of the time waiting for windows; stage: {stage}.",
        last.step,
        last.seconds / 3600.0,
        last.slices_per_second,
        last.waiting * 100.0
    )
}

fn charts(history: &History) -> Vec<(&'static str, Vec<Curve>)> {
    let curve = |name: &str, colour, of: &dyn Fn(&Point) -> Option<f64>| Curve {
        name: name.into(),
        colour,
        points: history.points.iter().filter_map(|point| Some((point.step as f64, of(point)?))).collect(),
    };
    let [blue, orange, green] = [[31, 119, 180], [255, 127, 14], [44, 160, 44]];
    let losses = vec![
        curve("auxiliary masks", blue, &|point| Some(point.auxiliary_loss)),
        curve("final output", orange, &|point| point.final_loss),
    ];
    let rate = vec![curve("learning rate", blue, &|point| Some(point.learning_rate))];
    let norms = [("encoder", blue), ("generator", orange), ("decoder", green)];
    let norms = norms.iter().enumerate().map(|(part, (name, colour))| {
        curve(name, *colour, &|point| Some(point.gradient_norms[part]).filter(|norm| *norm > 0.0))
    });
    let norms = norms.collect();
    let speed = vec![curve("slices/s", blue, &|point| Some(point.slices_per_second))];
    vec![
        ("Validation Dice", dice_curves(history)),
        ("Loss", losses),
        ("Learning rate", rate),
        ("Norm of the gradients", norms),
        ("Speed", speed),
    ]
}

fn dice_curves(history: &History) -> Vec<Curve> {
    let classes = history.validations.first().map_or(0, |validation| validation.output.classes.len());
    let by_class = (0..classes).map(|class| Curve {
        name: history.validations[0].output.classes[class].0.clone(),
        colour: class_colour(class + 1).unwrap_or([128; 3]),
        points: history
            .validations
            .iter()
            .filter_map(|validation| Some((validation.step as f64, validation.output.classes.get(class)?.1?)))
            .collect(),
    });
    let auxiliary = Curve {
        name: "mean of the auxiliary masks".into(),
        colour: [150; 3],
        points: history
            .validations
            .iter()
            .filter_map(|validation| Some((validation.step as f64, validation.auxiliary.mean?)))
            .collect(),
    };
    by_class.chain([auxiliary]).collect()
}

/// The part of the plane that a chart shows.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    /// The frame around all points; `None` if there are none.
    fn around(curves: &[Curve]) -> Option<Self> {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        points().next()?;
        let bounds = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) =
                points().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            let margin = if high > low { 0.0 } else { 0.5 * low.abs().max(1.0) };
            (low - margin, high + margin)
        };
        Some(Self { x: bounds(|point| point.0), y: bounds(|point| point.1) })
    }

    /// Position of a point, pixels.
    fn place(&self, (x, y): (f64, f64)) -> [f64; 2] {
        let ([width, height], [left, bottom]) = (SIZE, MARGIN);
        let share = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        [
            left + share(x, self.x) * (width - left - 8.0),
            (height - bottom) - share(y, self.y) * (height - bottom - 8.0),
        ]
    }
}

fn chart(title: &str, curves: &[Curve]) -> Markup {
    let Some(frame) = Frame::around(curves) else { return html! {} };
    let [width, height] = SIZE;
    html! {
        h2 { (title) }
        svg viewBox={ "0 0 " (width) " " (height) } role="img" {
            @for share in [0.0, 0.25, 0.5, 0.75, 1.0] { (axis_marks(&frame, share)) }
            @for curve in curves {
                polyline fill="none" stroke=(colour(curve)) stroke-width="1.5" points=(path(&frame, curve)) {}
            }
        }
        p {
            @for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
                span.key { i style={ "background:" (colour(curve)) } {} (curve.name) }
            }
        }
    }
}

/// A line across the chart with its value, and the step below it.
fn axis_marks(frame: &Frame, share: f64) -> Markup {
    let ([width, height], [left, _]) = (SIZE, MARGIN);
    let at = |(low, high): (f64, f64)| low + share * (high - low);
    let (x, y) = (at(frame.x), at(frame.y));
    let [at_x, at_y] = frame.place((x, y));
    let pixels = |value: f64| format!("{value:.1}");
    html! {
        line x1=(left) x2=(width) y1=(pixels(at_y)) y2=(pixels(at_y)) stroke="#ddd" {}
        text x=(pixels(left - 4.0)) y=(pixels(at_y + 4.0)) text-anchor="end" font-size="11" { (number(y)) }
        text x=(pixels(at_x)) y=(pixels(height - 6.0)) text-anchor="middle" font-size="11" {
            (format!("{x:.0}"))
        }
    }
}

fn colour(curve: &Curve) -> String {
    let [r, g, b] = curve.colour;
    format!("rgb({r},{g},{b})")
}

fn path(frame: &Frame, curve: &Curve) -> String {
    let every = curve.points.len().div_ceil(MOST_POINTS).max(1);
    let kept = curve.points.iter().step_by(every).chain(curve.points.last());
    let places = kept.map(|&point| {
        let [x, y] = frame.place(point);
        format!("{x:.1},{y:.1}")
    });
    places.collect::<Vec<_>>().join(" ")
}

fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.01 { format!("{value:.1e}") } else { format!("{value:.3}") }
}

fn validations(history: &History) -> Markup {
    let Some(first) = history.validations.first() else { return html! {} };
    let figure = |dice: Option<f64>| dice.map_or("–".into(), |dice| format!("{dice:.4}"));
    html! {
        h2 { "Validations" }
        table {
            tr {
                th { "Step" } th { "Cases" } th { "Mean Dice" }
                @for (name, _) in &first.output.classes { th { (name) } }
                th { "Auxiliary masks" }
            }
            @for validation in &history.validations {
                tr {
                    td { (validation.step) } td { (validation.cases) } td { (figure(validation.output.mean)) }
                    @for (_, dice) in &validation.output.classes { td { (figure(*dice)) } }
                    td { (figure(validation.auxiliary.mean)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::trainer::{DiceFigures, Validation};

    fn history() -> History {
        let point = |step: u64| Point {
            step,
            seconds: step as f64,
            stage: Stage::Full,
            auxiliary_loss: 1.0 / step as f64,
            final_loss: (step > 20).then_some(0.5),
            learning_rate: 1e-3,
            gradient_norms: [1.0, 2.0, 0.0],
            slices_per_second: 10.0,
            waiting: 0.01,
        };
        let figures = |dice| DiceFigures {
            mean: Some(dice),
            classes: vec![("<b>".into(), Some(dice)), ("c".into(), None)],
        };
        let validation = |step, dice| Validation {
            largest_component: Vec::new(),
            step,
            complete: true,
            cases: 3,
            output: figures(dice),
            auxiliary: figures(dice / 2.0),
        };
        History {
            points: (1..4000).map(|step| point(step * 10)).collect(),
            validations: vec![validation(10, 0.25), validation(20, 0.75)],
        }
    }

    #[test]
    fn the_page_has_every_curve_and_nothing_from_elsewhere() {
        let html = page("a & b", &history()).into_string();
        assert_eq!(html.matches("<svg").count(), 5);
        assert!(html.contains("Training: a &amp; b") && html.contains("&lt;b&gt;") && !html.contains("<b>"));
        assert!(html.contains("0.7500") && html.contains("39990 steps"));
        assert!(
            !html.contains("http:")
                && !html.contains("https:")
                && !html.contains("NaN")
                && !html.contains("inf,")
        );
        assert!(html.len() < 200_000, "curves are thinned out: {}", html.len());
    }

    #[test]
    fn a_page_without_points_says_so() {
        assert!(page("a", &History::default()).into_string().contains("Nothing yet"));
    }
}
