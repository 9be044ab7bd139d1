//! Plans a training from the contents of a dataset, as nnU-Net does: the configuration, with the reason for each choice
//! as a comment.

mod measure;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;

use crate::bundle::{Normalisation, SliceAxis};
use crate::survey::{CaseFacts, Survey};

pub use measure::seconds_per_step;

/// A volume with voxels so much longer along one axis than along the others has slices along that axis.
const THICK: f64 = 1.5;
/// Sides of a window, pixels. The image encoder works at the window's size.
const SIDES: [usize; 5] = [64, 96, 128, 192, 256];
/// Largest side on a CPU, and on a GPU.
const MOST_PIXELS: [usize; 2] = [128, 256];
/// A window shows at least this part of the median slice along each side; else voxels are made larger.
const LEAST_SHOWN: f64 = 0.4;
/// Most slices of a window.
const MOST_SLICES: f64 = 8.0;
/// Steps between checkpoints.
const STEPS_PER_EPOCH: u64 = 50;
/// Part of the time that is left for validations, checkpoints and the bundle.
const RESERVE: f64 = 0.15;
/// Least number of epochs.
const FEWEST_EPOCHS: u64 = 4;

/// What a plan is made for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the model.
    pub name: String,
    /// Names of the channels; empty = as the intensities look.
    pub modalities: Vec<String>,
    /// LiteMedSAM's weights.
    pub weights: PathBuf,
    /// Labels, if they are not in the dataset folder.
    pub labels: Option<PathBuf>,
    /// Folder of the run.
    pub output: PathBuf,
    /// Validation fold, and number of folds.
    pub fold: [usize; 2],
    /// Whether the training runs on a GPU.
    pub on_gpu: bool,
}

/// Choices for a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    request: Chosen,
    slice_axis: SliceAxis,
    axis_reason: String,
    /// `[z, y, x]` with z the slice axis.
    spacing_mm: [f64; 3],
    spacing_reason: String,
    depth: usize,
    side: usize,
    side_reason: String,
    normalisation: Normalisation,
    normalisation_reason: String,
    /// Value and name of each class.
    classes: Vec<(u8, String)>,
    ignore: Vec<u8>,
    mirrors_sides: bool,
    mirror_reason: String,
    training_cases: usize,
}

/// The parts of the request that the text repeats.
#[derive(Debug, Clone, PartialEq)]
struct Chosen {
    name: String,
    dataset: PathBuf,
    labels: Option<PathBuf>,
    modalities: Vec<String>,
    weights: PathBuf,
    output: PathBuf,
    fold: [usize; 2],
}

impl Plan {
    /// Chooses for a dataset without errors.
    ///
    /// # Errors
    /// Why a dataset cannot be trained on.
    pub fn of(survey: &Survey, request: &Request) -> Result<Self, String> {
        let at = survey.dataset.display();
        let labelled: Vec<&CaseFacts> = survey.cases.iter().filter(|case| case.labels.is_some()).collect();
        if labelled.len() < 2 {
            return Err(format!("{at}: {} cases with labels; a training needs at least 2", labelled.len()));
        }
        let (classes, ignore) = classes(survey);
        if classes.len() < 2 {
            return Err(format!("{at}: the labels have no class besides the background"));
        }
        let [fold, folds] = request.fold;
        if folds < 2 || fold >= folds || folds > labelled.len() {
            return Err(format!("fold {fold} of {folds}: there are {} cases with labels", labelled.len()));
        }
        let modalities = modalities(survey, request);
        let (slice_axis, axis_reason) = slice_axis(&labelled);
        let [spacing, extent] = geometry(&labelled, slice_axis);
        let most = MOST_PIXELS[usize::from(request.on_gpu)];
        let (side, spacing_mm, spacing_reason, side_reason) = window(spacing, extent, most);
        let slices = (extent[0] / spacing_mm[0]).round().clamp(1.0, MOST_SLICES);
        let (normalisation, normalisation_reason) = normalisation(survey, &modalities);
        let (mirrors_sides, mirror_reason) = mirroring(&classes, slice_axis);
        Ok(Self {
            request: Chosen {
                name: request.name.clone(),
                dataset: survey.dataset.clone(),
                labels: request.labels.clone(),
                modalities,
                weights: request.weights.clone(),
                output: request.output.clone(),
                fold: request.fold,
            },
            slice_axis,
            axis_reason,
            spacing_mm,
            spacing_reason,
            depth: slices as usize,
            side,
            side_reason,
            normalisation,
            normalisation_reason,
            classes,
            ignore,
            mirrors_sides,
            mirror_reason,
            training_cases: labelled.len() - labelled.len().div_ceil(folds),
        })
    }

    /// The configuration for a training of `hours`, at `seconds` a step (0 if they were not measured).
    pub fn configuration(&self, hours: f64, seconds: f64) -> String {
        let steps = if seconds > 0.0 { hours * 3600.0 * (1.0 - RESERVE) / seconds } else { 0.0 };
        let epochs = (steps / STEPS_PER_EPOCH as f64).round().max(FEWEST_EPOCHS as f64) as u64;
        text::configuration(self, hours, seconds, epochs)
    }
}

/// Value and name of each class, the background first, and the ignored values.
fn classes(survey: &Survey) -> (Vec<(u8, String)>, Vec<u8>) {
    let known = || survey.fingerprint.classes.iter();
    let mut classes: Vec<(u8, String)> = known()
        .filter(|class| !class.ignored && class.value != 0)
        .map(|class| (class.value, class.name.clone().unwrap_or_else(|| format!("class_{}", class.value))))
        .collect();
    let background = known().find(|class| class.value == 0).and_then(|class| class.name.clone());
    classes.insert(0, (0, background.unwrap_or_else(|| "background".into())));
    (classes, known().filter(|class| class.ignored).map(|class| class.value).collect())
}

fn modalities(survey: &Survey, request: &Request) -> Vec<String> {
    let channels = &survey.fingerprint.channels;
    if request.modalities.len() == channels.len() {
        return request.modalities.clone();
    }
    let many = channels.len() > 1;
    let name = |(index, looks): (usize, &str)| if many { format!("{looks}_{index}") } else { looks.into() };
    channels.iter().map(|channel| channel.looks_like).enumerate().map(name).collect()
}

/// Size of a case along the axes x, y, z of the patient: voxels in mm, and their number.
fn canonical(case: &CaseFacts) -> [(f64, f64); 3] {
    let mut axes = [(1.0, 1.0); 3];
    for (stored, letter) in case.orientation.chars().enumerate().take(3) {
        let axis = match letter {
            'R' | 'L' => 0,
            'A' | 'P' => 1,
            _ => 2,
        };
        axes[axis] = (case.spacing_mm[stored], case.shape[stored] as f64);
    }
    axes
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(1.0)
}

fn slice_axis(cases: &[&CaseFacts]) -> (SliceAxis, String) {
    let spacing = [0, 1, 2].map(|axis| median(cases.iter().map(|case| canonical(case)[axis].0).collect()));
    let thick = |axis: usize| {
        let others = (0..3).filter(|&other| other != axis).map(|other| spacing[other]);
        spacing[axis] / others.fold(0.0, f64::max)
    };
    let stacked = SliceAxis::NAMES.iter().find(|(_, axis)| thick(axis.canonical()) >= THICK);
    match stacked {
        Some(&(name, axis)) => {
            let times = thick(axis.canonical());
            (
                axis,
                format!("voxels are {times:.1} times as long along this axis: the scans have {name} slices"),
            )
        }
        None => {
            (SliceAxis::Axial, "voxels are about as long along every axis: axial slices by convention".into())
        }
    }
}

/// Median voxel size and extent, mm, `[z, y, x]` with z the slice axis.
fn geometry(cases: &[&CaseFacts], axis: SliceAxis) -> [[f64; 3]; 2] {
    let slice = axis.canonical();
    let [x, y] = match slice {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    };
    let of = |axis: usize, of: fn((f64, f64)) -> f64| {
        median(cases.iter().map(|case| of(canonical(case)[axis])).collect())
    };
    [|(size, _): (f64, f64)| size, |(size, count)| size * count]
        .map(|figure| [slice, y, x].map(|axis| of(axis, figure)))
}

fn rounded(mm: f64) -> f64 {
    (mm * 1000.0).round() / 1000.0
}

/// Side of the window, spacing, and why.
fn window(
    [z, y, x]: [f64; 3],
    [_, height, width]: [f64; 3],
    most: usize,
) -> (usize, [f64; 3], String, String) {
    let pixel = y.min(x);
    let pixels = (height / pixel).max(width / pixel);
    let fitting = SIDES.into_iter().find(|&side| side as f64 >= pixels && side <= most);
    let side = fitting.unwrap_or(most);
    let coarser = (LEAST_SHOWN * pixels / side as f64).max(1.0);
    let size = rounded(pixel * coarser);
    let about_spacing = if coarser > 1.0 {
        format!(
            "the median voxel, made {coarser:.1} times as large within slices, because a window should show {:.0}% of a slice",
            100.0 * LEAST_SHOWN
        )
    } else {
        "the median voxel".into()
    };
    let shown = (side as f64 / (pixels / coarser)).min(1.0) * 100.0;
    let about_side = format!(
        "the median slice has {:.0} pixels at this spacing; a window of {side} shows {shown:.0}% of its longer side",
        pixels / coarser
    );
    (side, [rounded(z), size, size], about_spacing, about_side)
}

fn normalisation(survey: &Survey, modalities: &[String]) -> (Normalisation, String) {
    let channels = &survey.fingerprint.channels;
    let is_ct = |index: usize| {
        modalities.get(index).is_some_and(|name| name.eq_ignore_ascii_case("CT"))
            || channels[index].looks_like == "CT"
    };
    let one = channels.len() == 1 && is_ct(0);
    match channels.first().and_then(|channel| channel.within_classes).filter(|within| one && within.std > 0.0)
    {
        Some(within) => {
            let [low, high, mean, std] =
                [within.percentile_0_5, within.percentile_99_5, within.mean, within.std].map(rounded);
            let reason =
                "CT: clipped to what the classes have, with mean and standard deviation of all cases".into();
            (Normalisation::Clip { low, high, mean, std }, reason)
        }
        None => {
            (Normalisation::ZScore, "intensities have no unit in common: each volume by its own mean".into())
        }
    }
}

/// Whether left and right may be exchanged, along the last axis of a slice.
fn mirroring(classes: &[(u8, String)], axis: SliceAxis) -> (bool, String) {
    if axis == SliceAxis::Sagittal {
        return (false, "no axis of sagittal slices is one of symmetry".into());
    }
    let sided = classes.iter().find(|(_, name)| {
        let words = name.to_lowercase();
        words
            .split(|letter: char| !letter.is_alphanumeric())
            .any(|word| ["left", "right", "l", "r", "lt", "rt"].contains(&word))
    });
    match sided {
        Some((_, name)) => (false, format!("`{name}` names a side, so left and right are not exchanged")),
        None => (true, "left and right are mirror images of each other, and no class names a side".into()),
    }
}
