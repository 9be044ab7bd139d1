//! `training.html`: the curves of a run on one page that needs nothing but itself.

use std::fmt::Write as _;
use std::path::Path;

use super::history::{History, Point};
use crate::files::write_atomically;
use crate::report::class_colour;
use crate::training::error::TrainingError;
use crate::training::optimise::Stage;

/// Size of a chart and the margins of its axes, pixels.
const SIZE: [f64; 2] = [720.0, 240.0];
const MARGIN: [f64; 2] = [56.0, 24.0];
/// Points drawn of a curve; more are thinned out.
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
    let html = page(name, history);
    write_atomically(path, |file| file.write_all(html.as_bytes())).map_err(TrainingError::io(path))
}

fn page(name: &str, history: &History) -> String {
    let title = format!("Training: {}", escaped(name));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\nbody {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; \
         max-width: 48rem; padding: 0 1rem; }}\nsvg {{ width: 100%; height: auto; }}\n\
         table {{ border-collapse: collapse; }}\ntd, th {{ padding: 0.2rem 0.8rem; text-align: right; }}\n\
         .key {{ display: inline-block; margin-right: 1rem; }}\n.key i {{ display: inline-block; width: 1rem; \
         height: 0.2rem; vertical-align: middle; margin-right: 0.3rem; }}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    html.push_str(&facts(history));
    for (title, curves) in charts(history) {
        html.push_str(&chart(title, &curves));
    }
    html.push_str(&validations(history));
    html.push_str("</body>\n</html>\n");
    html
}

fn facts(history: &History) -> String {
    let Some(last) = history.points.last() else { return "<p>Nothing yet.</p>\n".into() };
    let stage = match last.stage {
        Stage::GeneratorOnly => "generator only",
        Stage::Full => "generator and decoder",
    };
    format!(
        "<p>{} steps in {:.2} hours, {:.1} slices/s at last, {:.1}% of the time waiting for windows; stage: {stage}.</p>\n",
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

fn chart(title: &str, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    if points().count() == 0 {
        return String::new();
    }
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            points().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if high > low {
            (low, high)
        } else {
            (low - 0.5 * low.abs().max(1.0), low + 0.5 * low.abs().max(1.0))
        }
    };
    let ((x_low, x_high), (y_low, y_high)) = (bounds(|point| point.0), bounds(|point| point.1));
    let ([width, height], [left, bottom]) = (SIZE, MARGIN);
    let x_of = |x: f64| left + (x - x_low) / (x_high - x_low) * (width - left - 8.0);
    let y_of = |y: f64| (height - bottom) - (y - y_low) / (y_high - y_low) * (height - bottom - 8.0);
    let mut svg = format!("<h2>{title}</h2>\n<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (x, y) = (x_low + share * (x_high - x_low), y_low + share * (y_high - y_low));
        let (at_x, at_y) = (x_of(x), y_of(y));
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{width}\" y1=\"{at_y:.1}\" y2=\"{at_y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"11\">{}</text>\
             <text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\">{x:.0}</text>",
            left - 4.0,
            at_y + 4.0,
            number(y),
            height - 6.0
        );
    }
    for curve in curves {
        let every = curve.points.len().div_ceil(MOST_POINTS).max(1);
        let kept = curve.points.iter().step_by(every).chain(curve.points.last());
        let path: Vec<String> = kept.map(|&(x, y)| format!("{:.1},{:.1}", x_of(x), y_of(y))).collect();
        let [r, g, b] = curve.colour;
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"rgb({r},{g},{b})\" stroke-width=\"1.5\" points=\"{}\"/>",
            path.join(" ")
        );
    }
    svg.push_str("</svg>\n<p>");
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let [r, g, b] = curve.colour;
        let name = escaped(&curve.name);
        let _ = write!(svg, "<span class=\"key\"><i style=\"background:rgb({r},{g},{b})\"></i>{name}</span>");
    }
    svg.push_str("</p>\n");
    svg
}

fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.01 { format!("{value:.1e}") } else { format!("{value:.3}") }
}

fn validations(history: &History) -> String {
    let Some(first) = history.validations.first() else { return String::new() };
    let mut html =
        String::from("<h2>Validations</h2>\n<table>\n<tr><th>Step</th><th>Cases</th><th>Mean Dice</th>");
    for (name, _) in &first.output.classes {
        let _ = write!(html, "<th>{}</th>", escaped(name));
    }
    html.push_str("<th>Auxiliary masks</th></tr>\n");
    let figure = |dice: Option<f64>| dice.map_or("–".into(), |dice| format!("{dice:.4}"));
    for validation in &history.validations {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td>",
            validation.step,
            validation.cases,
            figure(validation.output.mean)
        );
        for (_, dice) in &validation.output.classes {
            let _ = write!(html, "<td>{}</td>", figure(*dice));
        }
        let _ = writeln!(html, "<td>{}</td></tr>", figure(validation.auxiliary.mean));
    }
    html.push_str("</table>\n");
    html
}

/// Text as it may stand in an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
        let html = page("a & b", &history());
        assert_eq!(html.matches("<svg").count(), 5);
        assert!(html.contains("Training: a &amp; b") && html.contains("&lt;b&gt;") && !html.contains("<b>"));
        assert!(html.contains("0.7500") && html.contains("39990 steps"));
        assert!(!html.contains("http") && !html.contains("NaN") && !html.contains("inf,"));
        assert!(html.len() < 200_000, "curves are thinned out: {}", html.len());
    }

    #[test]
    fn a_page_without_points_says_so() {
        assert!(page("a", &History::default()).contains("Nothing yet"));
    }
}
