//! The configuration of a plan as text with comments.

use std::fmt::{self, Write};
use std::path::Path;

use super::{Plan, STEPS_PER_EPOCH};
use crate::bundle::{LITE_MEDSAM_SHA256, Normalisation};

/// Most cases of a validation during the run.
const VALIDATION_CASES: usize = 7;

pub(super) fn configuration(plan: &Plan, hours: f64, seconds: f64, epochs: u64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, plan, hours, seconds, epochs);
    text
}

fn write(text: &mut String, plan: &Plan, hours: f64, seconds: f64, epochs: u64) -> fmt::Result {
    model(text, plan)?;
    data(text, plan)?;
    learning(text, plan, hours, seconds, epochs)
}

fn model(text: &mut String, plan: &Plan) -> fmt::Result {
    let request = &plan.request;
    let names: Vec<String> = plan.classes.iter().map(|(_, name)| quoted(name)).collect();
    let modalities: Vec<String> = request.modalities.iter().map(|name| quoted(name)).collect();
    let [z, y, x] = plan.spacing_mm;
    let (side, mirror) = (plan.side, plan.mirrors_sides);
    writeln!(
        text,
        "# Made by `spsam plan` from {}. Every choice may be changed.",
        request.dataset.display()
    )?;
    writeln!(text, "model:\n  name: {}\n  classes: [{}]", quoted(&request.name), names.join(", "))?;
    writeln!(text, "  modalities: [{}]", modalities.join(", "))?;
    writeln!(text, "  # {}\n  slice_axis: {}", plan.axis_reason, plan.slice_axis.name())?;
    writeln!(text, "  # {}\n  spacing_mm: [{z:?}, {y:?}, {x:?}]", plan.spacing_reason)?;
    writeln!(
        text,
        "  # {}; mirroring in inference doubles its time\n  # {}",
        plan.side_reason, plan.mirror_reason
    )?;
    writeln!(
        text,
        "  patch: {{ depth: {}, plane: {{ window: [{side}, {side}] }}, mirror: [false, false, {mirror}] }}",
        plan.depth
    )?;
    writeln!(text, "  # {}", plan.normalisation_reason)?;
    match plan.normalisation {
        Normalisation::Clip { low, high, mean, std } => writeln!(
            text,
            "  normalisation: {{ clip: {{ low: {low:?}, high: {high:?}, mean: {mean:?}, std: {std:?} }} }}"
        )?,
        _ => writeln!(text, "  normalisation: z_score")?,
    }
    writeln!(
        text,
        "  # islands of a class are removed if that improves the validation; true if a case has exactly one organ, or organs\n  \
         # that touch: the rest is then removed"
    )?;
    writeln!(
        text,
        "  largest_component: by_validation\n  network: {{ backbone: lite_medsam, image_size: {side} }}"
    )?;
    writeln!(text, "  weights:\n    file: {}\n    sha256: {LITE_MEDSAM_SHA256}", path(&request.weights))
}

fn data(text: &mut String, plan: &Plan) -> fmt::Result {
    let request = &plan.request;
    let values: Vec<u8> = plan.classes.iter().map(|(value, _)| *value).collect();
    let [fold, folds] = request.fold;
    writeln!(text, "data:\n  folder: {}", path(&request.dataset))?;
    if let Some(labels) = &request.labels {
        writeln!(text, "  labels: {}", path(labels))?;
    }
    if values.iter().zip(0..).any(|(&value, place)| value != place) {
        writeln!(text, "  values: {values:?}")?;
    }
    if !plan.ignore.is_empty() {
        writeln!(text, "  ignore: {:?}", plan.ignore)?;
    }
    writeln!(text, "  # {} cases to learn from; patients never stand on both sides", plan.training_cases)?;
    writeln!(text, "  split: {{ folds: {{ count: {folds}, index: {fold} }} }}\n  foreground: 0.5")
}

/// Schedule and optimiser: `epochs` that take `hours` at `seconds` a step, 0 if no step was timed.
fn learning(text: &mut String, plan: &Plan, hours: f64, seconds: f64, epochs: u64) -> fmt::Result {
    let half = (epochs / 2).max(1);
    match seconds > 0.0 {
        true => writeln!(
            text,
            "# {hours} hours at {seconds:.2} s a step, as measured on this machine, with 15% for validations"
        )?,
        false => writeln!(text, "# the shortest schedule: no step was timed")?,
    }
    writeln!(text, "schedule:\n  epochs: {epochs}\n  iterations_per_epoch: {STEPS_PER_EPOCH}")?;
    writeln!(text, "  # first the generator alone, because prompts are useless until it is trained")?;
    writeln!(text, "  generator_only_epochs: {half}\n  windows_per_step: 1")?;
    writeln!(
        text,
        "  validate_every_epochs: {}\n  validation_cases: {VALIDATION_CASES}",
        (epochs / 8).max(1)
    )?;
    writeln!(
        text,
        "optimiser:\n  rule: {{ adamw: {{ betas: [0.9, 0.999], eps: 1.0e-8, weight_decay: 0.01 }} }}"
    )?;
    writeln!(text, "  clip_norm: 12.0\n  average: 0.995")?;
    let warm_up = (epochs * STEPS_PER_EPOCH / 20).clamp(1, 100);
    writeln!(
        text,
        "learning_rate: {{ warm_up_cosine: {{ peak: 8.0e-4, warm_up_steps: {warm_up}, last: 1.0e-5 }} }}"
    )?;
    writeln!(text, "# so that the decoder learns to use anyone's prompts\nprompts: {{}}")?;
    writeln!(
        text,
        "augmentation:\n  mirror: [false, false, {}]\noutput: {}",
        plan.mirrors_sides,
        path(&plan.request.output)
    )
}

/// A text as a YAML scalar: JSON strings are valid YAML.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&&*text.to_lowercase());
    if is_plain { text.into() } else { serde_json::Value::from(text).to_string() }
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_yaml_reads_otherwise_are_quoted() {
        for text in ["left atrium", "no", "12", "a: b", "ü#", "\"", "true"] {
            let read: String = serde_yaml::from_str(&quoted(text)).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(quoted("liver_1"), "liver_1");
    }
}
