//! Validation on whole cases by the same steps as inference: windows, network, blending, labels on the original
//! grid, metrics.

use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;
use ndarray::{Array3, Array4, Axis};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::Trainer;
use crate::bundle::BundleConfig;
use crate::metrics::{CaseMetrics, DEFAULT_TOLERANCE_MM, Presence, Summary, evaluate_case};
use crate::report::{Montage, MontageConfig, MontageInput};
use crate::training::config::TrainingConfig;
use crate::training::data::LabelRules;
use crate::training::error::TrainingError;
use crate::training::optimise::{IGNORED, Stage};
use crate::volume::{
    CaseFiles, CasePlan, Image, LabelAssembler, PlanOptions, PreparedCase, column_norms, erase,
    keep_largest_component_of, read_labels_on,
};

/// Results of one validation. Dice is the mean over cases, 0 to 1; absent if no truth has the class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps done before it.
    pub step: u64,
    /// Whether all cases were used.
    pub complete: bool,
    /// Number of cases used.
    pub cases: usize,
    /// Of the network's output: the decoder's, or the auxiliary masks while the decoder is not trained.
    pub output: DiceFigures,
    /// Of the auxiliary masks.
    pub auxiliary: DiceFigures,
    /// Classes of which only the largest component is kept in these figures, because this validation decided so
    /// (`by_validation`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub largest_component: Vec<String>,
}

/// Dice by class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiceFigures {
    /// Mean over classes.
    pub mean: Option<f64>,
    /// Each class except the background, in the model's order.
    pub classes: Vec<(String, Option<f64>)>,
}

/// The validation cases.
#[derive(Debug)]
pub struct Validator {
    cases: Vec<CaseFiles>,
    config: BundleConfig,
    options: PlanOptions,
    rules: LabelRules,
    /// Whether each validation decides of which classes only the largest component is kept.
    decides: bool,
}

/// The results of a validation.
pub struct Validated {
    /// The figures.
    pub figures: Validation,
    /// Slices of the first case with the outlines of truth (left) and output (right).
    pub pictures: Vec<RgbImage>,
}

/// Of network output and auxiliary masks.
#[derive(Debug, Clone)]
struct Both<T> {
    output: T,
    auxiliary: T,
}

/// Labels of a case `[x, y, z]`.
type CaseLabels = Both<Array3<u8>>;

impl Validator {
    /// For `cases`, which have labels.
    pub fn new(cases: Vec<CaseFiles>, config: BundleConfig) -> Self {
        let rules = LabelRules::new((0..=u8::MAX).take(config.classes.len()), []);
        Self { cases, config, options: PlanOptions::default(), rules, decides: false }
    }

    /// For `cases` of a training configuration, which have labels.
    pub fn of_config(config: &TrainingConfig, cases: Vec<CaseFiles>) -> Self {
        let options = PlanOptions { regrid: config.data.regrid(), ..PlanOptions::default() };
        let rules = LabelRules::of_config(config);
        let decides = config.model.largest_component.is_by_validation();
        Self { options, rules, decides, ..Self::new(cases, config.model.without_files()) }
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Validates on all cases, or on at most `limit` cases spread over them. `None` if `stop` was set meanwhile.
    ///
    /// # Errors
    /// A case that cannot be read.
    pub fn validate(
        &self,
        trainer: &Trainer,
        stage: Stage,
        limit: Option<usize>,
        stop: &AtomicBool,
    ) -> Result<Option<Validated>, TrainingError> {
        let count = limit.unwrap_or(usize::MAX).min(self.cases.len());
        let none = Both { output: Vec::new(), auxiliary: Vec::new() };
        let (mut metrics, mut cleaned, mut pictures) = (none.clone(), none, Vec::new());
        for index in 0..count {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let files = &self.cases[index * self.cases.len() / count];
            let plan = CasePlan::with_options(files, &self.config, &self.options)?;
            let mut labels = self.segment(trainer, &plan, stage)?;
            let mut without_islands = self.decides.then(|| self.without_islands(&labels));
            let volumes = std::iter::once(&mut labels).chain(&mut without_islands);
            let Some(truth) = self.truth(&plan, volumes)? else { continue };
            for (all, labels) in [(&mut metrics, Some(&labels)), (&mut cleaned, without_islands.as_ref())] {
                let Some(labels) = labels else { continue };
                all.output.push(self.metrics(&plan, &truth, &labels.output)?);
                all.auxiliary.push(self.metrics(&plan, &truth, &labels.auxiliary)?);
            }
            if index == 0 {
                pictures = self.pictures(&plan, &labels.output, &truth)?;
            }
        }
        let largest_component = match self.decides {
            true => improved(&self.dice(&metrics.output), &self.dice(&cleaned.output)),
            false => Vec::new(),
        };
        take_classes(&mut metrics.output, cleaned.output, &largest_component);
        take_classes(&mut metrics.auxiliary, cleaned.auxiliary, &largest_component);
        let figures = Validation {
            step: trainer.steps_done(),
            complete: count == self.cases.len(),
            cases: count,
            output: self.dice(&metrics.output),
            auxiliary: self.dice(&metrics.auxiliary),
            largest_component,
        };
        Ok(Some(Validated { figures, pictures }))
    }

    /// The labels with only the largest component of every class.
    fn without_islands(&self, labels: &CaseLabels) -> CaseLabels {
        let classes: Vec<u8> = (1..=u8::MAX).take(self.config.classes.len() - 1).collect();
        let mut labels = labels.clone();
        keep_largest_component_of(&mut labels.output, &classes);
        keep_largest_component_of(&mut labels.auxiliary, &classes);
        labels
    }

    fn metrics(
        &self,
        plan: &CasePlan,
        truth: &Array3<u8>,
        labels: &Array3<u8>,
    ) -> Result<CaseMetrics, TrainingError> {
        let spacing_mm = column_norms(plan.target().world_from_voxel);
        let (names, tolerance) = (&self.config.classes, DEFAULT_TOLERANCE_MM);
        let classes = evaluate_case(truth.view(), labels.view(), spacing_mm, names, tolerance)?;
        Ok(CaseMetrics { case_id: plan.files.case_id.clone(), classes })
    }

    /// The true classes of a case; ignored voxels become background there and in `all` labels.
    fn truth<'a>(
        &self,
        plan: &CasePlan,
        all: impl Iterator<Item = &'a mut CaseLabels>,
    ) -> Result<Option<Array3<u8>>, TrainingError> {
        let Some(files) = &plan.files.labels else { return Ok(None) };
        let mut truth = files.read(|path| read_labels_on(path, &plan.target(), plan.regrid))?;
        let (path, classes) = (files.path().to_path_buf(), self.config.classes.len());
        self.rules.apply(&mut truth).map_err(|label| TrainingError::Label { path, label, classes })?;
        if truth.iter().any(|&label| label == IGNORED) {
            let ignored = truth.mapv(|label| label == IGNORED);
            erase(&mut truth, &ignored);
            for labels in all {
                erase(&mut labels.output, &ignored);
                erase(&mut labels.auxiliary, &ignored);
            }
        }
        Ok(Some(truth))
    }

    fn segment(&self, trainer: &Trainer, plan: &CasePlan, stage: Stage) -> Result<CaseLabels, TrainingError> {
        let case = PreparedCase::open(plan, &self.config)?;
        let classes = self.config.classes.len();
        let mut auxiliary = LabelAssembler::new(plan, classes);
        let mut output = (stage == Stage::Full).then(|| LabelAssembler::new(plan, classes));
        for window in 0..plan.windows().len() {
            let segmented = trainer.segment(&case.window(window), stage)?;
            auxiliary.push(window, by_class(&segmented.auxiliary).view())?;
            if let (Some(assembler), Some(logits)) = (&mut output, &segmented.output) {
                assembler.push(window, by_class(logits).view())?;
            }
        }
        let auxiliary = auxiliary.finish();
        let output = output.map_or_else(|| auxiliary.clone(), LabelAssembler::finish);
        Ok(CaseLabels { output, auxiliary })
    }

    fn dice(&self, cases: &[CaseMetrics]) -> DiceFigures {
        let summary = Summary::from_cases(cases, DEFAULT_TOLERANCE_MM);
        // If no truth has a class, predictions of it give no value for the class.
        let is_in_truth = |name: &String| {
            let mut of_class =
                cases.iter().flat_map(|case| &case.classes).filter(|class| class.class == *name);
            of_class.any(|class| matches!(class.presence, Presence::Missed | Presence::Both))
        };
        let dice = |name: &String| {
            let dice = summary.classes.get(name)?.dice;
            (dice.is_finite() && is_in_truth(name)).then_some(dice)
        };
        let classes = self.config.classes.iter().skip(1).map(|name| (name.clone(), dice(name)));
        let classes: Vec<(String, Option<f64>)> = classes.collect();
        let figures: Vec<f64> = classes.iter().filter_map(|(_, dice)| *dice).collect();
        let mean = (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64);
        DiceFigures { mean, classes }
    }

    fn pictures(
        &self,
        plan: &CasePlan,
        labels: &Array3<u8>,
        truth: &Array3<u8>,
    ) -> Result<Vec<RgbImage>, TrainingError> {
        let Some(path) = plan.files.images.first() else { return Ok(Vec::new()) };
        let image = Image::read(path)?;
        let grid = &plan.grid;
        let input = MontageInput {
            image: grid.to_network(image.voxels.index_axis(Axis(0), 0).reversed_axes()),
            prediction: grid.to_network(labels.view()),
            truth: Some(grid.to_network(truth.view())),
            spacing_mm: grid.spacing_mm,
        };
        let montage = Montage::new(&input, &MontageConfig { slices: 4, ..MontageConfig::default() })?;
        Ok(montage.panels.into_iter().map(|panel| panel.picture).collect())
    }
}

/// The classes whose Dice is higher in `cleaned`.
fn improved(before: &DiceFigures, cleaned: &DiceFigures) -> Vec<String> {
    let pairs = before.classes.iter().zip(&cleaned.classes);
    pairs.filter(|((_, before), (_, after))| after > before).map(|((name, _), _)| name.clone()).collect()
}

/// Replaces the metrics of `classes` by those of `cleaned`, the same cases.
fn take_classes(metrics: &mut [CaseMetrics], cleaned: Vec<CaseMetrics>, classes: &[String]) {
    for (case, cleaned) in metrics.iter_mut().zip(cleaned) {
        for (class, cleaned) in case.classes.iter_mut().zip(cleaned.classes) {
            if classes.contains(&class.class) {
                *class = cleaned;
            }
        }
    }
}

/// Logits `[D, N, H, W]` to `[N, D, H, W]`, the order for blending.
pub fn by_class(logits: &Tensor) -> Array4<f32> {
    let logits = logits.transpose(0, 1).to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0f32; logits.numel()];
    logits.copy_data(&mut values, logits.numel());
    let shape: Vec<usize> = logits.size().iter().map(|&size| size as usize).collect();
    let array = Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), values);
    array.unwrap_or_default() // the values are as many as the shape says
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ClassMetrics;

    fn case(dice: [f64; 2]) -> CaseMetrics {
        let of = |(class, dice): (&str, f64)| ClassMetrics { dice, ..ClassMetrics::undefined(class) };
        CaseMetrics { case_id: "c".into(), classes: ["a", "b"].into_iter().zip(dice).map(of).collect() }
    }

    #[test]
    fn only_classes_that_improve_are_taken() {
        let figures = |classes: [Option<f64>; 3]| DiceFigures {
            mean: None,
            classes: ["a", "b", "c"].map(String::from).into_iter().zip(classes).collect(),
        };
        let before = figures([Some(0.5), Some(0.5), None]);
        assert_eq!(improved(&before, &figures([Some(0.6), Some(0.5), None])), ["a"]);
        assert!(improved(&before, &figures([Some(0.4), Some(0.5), None])).is_empty());

        let mut metrics = [case([0.1, 0.2]), case([0.3, 0.4])];
        take_classes(&mut metrics, vec![case([0.5, 0.6]), case([0.7, 0.8])], &["b".into()]);
        let dice = metrics.map(|case| case.classes.iter().map(|class| class.dice).collect::<Vec<_>>());
        assert_eq!(dice, [[0.1, 0.6], [0.3, 0.8]]);
    }
}
