//! The folder of a run: label maps, `metrics.csv`, `summary.json` and `report.html`, kept up to date case by case.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eyre::{Result, WrapErr};
use ndarray::Array3;

use super::{
    CasePart, CaseSection, ClassRow, FailedCase, Latencies, ModelInfo, Montage, MontageConfig, MontageInput,
    OutputRecord, Report, RunSummary, Segmentations, Sides, Timings, Versions, Wait, now_utc,
    segmentation_name, write_metrics, write_summary,
};
use crate::bundle::Bundle;
use crate::message::control::CaseOpen;
use crate::metrics::{CaseMetrics, ClassMetrics, DEFAULT_TOLERANCE_MM, Summary, evaluate_case};
use crate::versions;
use crate::volume::{
    self, CasePlan, ClassTable, Header, IgnoreValues, Image, LabelFiles, VolumeError, erase,
};

const METRICS: &str = "metrics.csv";
const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";

/// Series on the report of a live run, at least.
const MOST_SERIES: usize = 50;

/// The files that a run over a part of the cases writes besides label maps.
pub fn result_files(part: CasePart) -> [String; 3] {
    [METRICS, SUMMARY, REPORT].map(|name| part.name(name))
}

/// File name of the label map of a case.
pub fn label_map_name(case_id: &str) -> String {
    format!("{case_id}.nii.gz")
}

/// What a run has produced so far.
pub struct Results {
    folder: PathBuf,
    part: CasePart,
    record: OutputRecord,
    ignore: IgnoreValues,
    segmentations: Option<Segmentations>,
    report: Report,
    summary: RunSummary,
    measured: Vec<CaseMetrics>,
    /// From the loader's start, and from the command, to the first label map.
    first_result: Option<(Duration, Option<Duration>)>,
    export: Duration,
    latencies: Latencies,
}

impl Results {
    /// Makes the folder and checks that it can be written to. Runs over other parts of the cases may write to it, too.
    /// Voxels whose truth is one of `ignore` are excluded from all metrics.
    ///
    /// # Errors
    /// A folder that cannot be made or written to.
    pub fn new(
        folder: &Path,
        part: CasePart,
        bundle: &Bundle,
        device: String,
        ignore: IgnoreValues,
    ) -> Result<Self> {
        fs::create_dir_all(folder).wrap_err_with(|| format!("{}", folder.display()))?;
        let config = &bundle.config;
        let backbone = serde_yaml::to_string(&config.network.backbone)?;
        let summary = RunSummary {
            started: now_utc(),
            cases: 0,
            failed: Vec::new(),
            dice_mean: f64::NAN,
            classes: Vec::new(),
            conventions: super::Conventions,
            model: ModelInfo {
                name: config.name.clone(),
                backbone: backbone.trim().to_owned(),
                image_size: config.network.image_size,
                classes: config.classes.clone(),
                label_values: Vec::new(),
                weights_sha256: config.weights.sha256.clone(),
                adapters_sha256: config.adapters.as_ref().map(|adapters| adapters.sha256.clone()),
            },
            device,
            versions: Versions {
                self_prompt_sam: versions::SELF_PROMPT_SAM.into(),
                dora: versions::DORA.into(),
                torch: versions::torch().into(),
                tch: versions::TCH.into(),
            },
            timings: Timings::default(),
            live: None,
        };
        Ok(Self {
            folder: folder.to_path_buf(),
            part,
            record: OutputRecord::read_for(folder, part)?,
            ignore,
            segmentations: None,
            report: Report::new(folder, Sides::TRUTH)?,
            summary,
            measured: Vec::new(),
            first_result: None,
            export: Duration::ZERO,
            latencies: Latencies::default(),
        })
    }

    /// With a DICOM segmentation of each case that is a DICOM series.
    #[must_use]
    pub fn with_segmentations(self, segmentations: Option<Segmentations>) -> Self {
        Self { segmentations, ..self }
    }

    /// Counts the times of live images.
    pub fn add_latencies(&mut self, provisional: bool, waits: Vec<Wait>) {
        self.latencies.add(provisional, waits);
    }

    /// Counts time that was spent between logits and files.
    pub fn exported(&mut self, time: Duration) {
        self.export += time;
        self.summary.timings.seconds_export = self.export.as_secs_f64();
    }

    /// Notes a case without a result.
    pub fn add_failure(&mut self, case: &str, error: &str) {
        self.summary.failed.push(FailedCase { case: case.into(), error: error.into() });
    }

    /// Writes the label map and the DICOM segmentation of a case, given as indices into the table of classes `[x, y, z]`, computes metrics if
    /// there is truth, and updates the other files. `slices` is the number of slices segmented so far.
    ///
    /// # Errors
    /// Files that cannot be read or written, or truth on another grid; nothing half-written is left.
    pub fn add_case(&mut self, open: &CaseOpen, labels: &Array3<u8>, slices: usize) -> Result<()> {
        let files = &open.plan.files;
        let Some(image_path) = files.images.first() else { eyre::bail!("a case without images") };
        // First of all: whatever goes wrong with the figures, the label map is there.
        self.write_label_map(&files.case_id, labels, &open.classes, image_path)?;
        self.write_segmentation(open, labels)?;
        let names = open.classes.names();
        let truth = read_truth(&open.plan, &open.classes, &self.ignore)?;
        let spacing_mm = Header::read(image_path)?.spacing_mm();
        let metrics = match &truth {
            Some((truth, ignored)) => {
                let mut judged = labels.clone();
                if let Some(ignored) = ignored {
                    erase(&mut judged, ignored);
                }
                // [x, y, z] as stored has x innermost.
                let [truth, judged] = [truth, &judged].map(|labels| labels.view().reversed_axes());
                let [dx, dy, dz] = spacing_mm;
                evaluate_case(truth, judged, [dz, dy, dx], &names, DEFAULT_TOLERANCE_MM).wrap_err_with(
                    || {
                        format!(
                            "{}",
                            files.labels.as_ref().map_or(image_path.as_path(), LabelFiles::path).display()
                        )
                    },
                )?
            }
            None => names.iter().skip(1).map(|class| ClassMetrics::undefined(class)).collect(),
        };
        let volumes_ml = millilitres(labels, spacing_mm);
        let truth = truth.map(|(truth, _)| truth);
        let truths_ml = truth.as_ref().map(|truth| millilitres(truth, spacing_mm));
        let rows = metrics.iter().zip(1..).map(|(metrics, label)| ClassRow {
            metrics: metrics.clone(),
            volume_ml: volumes_ml[label],
            truth_ml: truths_ml.map(|truths_ml| truths_ml[label]),
        });
        let section = CaseSection {
            case_id: files.case_id.clone(),
            classes: rows.collect(),
            montage: Some(montage(open, &Image::read(image_path)?, labels, truth.as_ref())?),
        };
        self.report.add_case(&section)?;
        if truth.is_some() {
            self.measured.push(CaseMetrics { case_id: files.case_id.clone(), classes: metrics });
        }
        self.summary.cases += 1;
        self.summary.model.classes = names;
        self.summary.model.label_values = open.classes.classes().iter().map(|class| class.value).collect();
        self.time_case(open, slices);
        self.write_figures()
    }

    /// Brings the timings up to date after a case of `slices` slices.
    fn time_case(&mut self, open: &CaseOpen, slices: usize) {
        let since = |unix_ms| now().saturating_sub(Duration::from_millis(unix_ms));
        let elapsed = since(open.started_unix_ms);
        let from_command = open.commanded_unix_ms.map(since);
        let (first_result, first_from_command) = *self.first_result.get_or_insert((elapsed, from_command));
        self.summary.timings = Timings {
            seconds_total: elapsed.as_secs_f64(),
            seconds_per_case: elapsed.as_secs_f64() / self.summary.cases as f64,
            slices_per_second: slices as f64 / elapsed.as_secs_f64().max(1e-3),
            time_to_first_result_s: first_result.as_secs_f64(),
            command_to_first_result_s: first_from_command.map_or(f64::NAN, |time| time.as_secs_f64()),
            seconds_export: self.export.as_secs_f64(),
        };
    }

    /// Writes everything after a live series. A receiver has no end, so its report has only the newest series.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn finish_series(&mut self) -> Result<()> {
        self.report.forget_old(MOST_SERIES, &self.folder)?;
        self.finish()
    }

    /// Writes everything for the last time, the report with it.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        self.write_figures()?;
        self.report.write(&self.file(REPORT), &self.summary)?;
        Ok(self.record.complete(result_files(self.part))?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(self.part.name(name))
    }

    fn write_label_map(
        &mut self,
        case_id: &str,
        labels: &Array3<u8>,
        classes: &ClassTable,
        image: &Path,
    ) -> Result<()> {
        let name = label_map_name(case_id);
        self.record.begin(result_files(self.part).iter().chain([&name]))?;
        volume::write_labels(&self.folder.join(&name), labels, image, classes)?;
        Ok(self.record.complete([name])?)
    }

    fn write_segmentation(&mut self, open: &CaseOpen, labels: &Array3<u8>) -> Result<()> {
        const WITHOUT: &str = "no DICOM segmentation (--no-seg or SPSAM_SEG=0 does without)";
        let Some(segmentations) = &self.segmentations else { return Ok(()) };
        let images = segmentations.images(open).wrap_err(WITHOUT)?;
        if images.is_empty() {
            return Ok(());
        }
        let revision = open.live.as_ref().map_or(0, |live| live.revision);
        let name = segmentation_name(&open.plan.files.case_id, revision);
        self.record.begin([&*name])?;
        let path = self.folder.join(&name);
        segmentations.write(&path, &images, labels, &open.classes).wrap_err(WITHOUT)?;
        segmentations.deliver(&name, &path);
        Ok(self.record.complete([name])?)
    }

    fn write_figures(&mut self) -> Result<()> {
        let means = Summary::from_cases(&self.measured, DEFAULT_TOLERANCE_MM);
        let names = self.summary.model.classes.iter().skip(1);
        self.summary.dice_mean = means.dice_mean;
        self.summary.classes =
            names.filter_map(|name| Some((name.clone(), *means.classes.get(name)?))).collect();
        self.summary.live = self.latencies.figures();
        write_metrics(&self.file(METRICS), &self.measured)?;
        Ok(write_summary(&self.file(SUMMARY), &self.summary)?)
    }
}

/// True labels as indices into the table of classes, background for ignored voxels; and the mask of ignored voxels.
type Truth = (Array3<u8>, Option<Array3<bool>>);

fn read_truth(plan: &CasePlan, classes: &ClassTable, ignore: &IgnoreValues) -> Result<Option<Truth>> {
    let Some(labels) = &plan.files.labels else { return Ok(None) };
    let mut truth = labels.read(|path| volume::read_labels_on(path, &plan.target(), plan.regrid))?;
    let ignored = ignore.clear(&mut truth);
    let unknown = |value| VolumeError::UnknownLabel { path: labels.path().into(), value };
    classes.to_indices(&mut truth).map_err(unknown)?;
    Ok(Some((truth, ignored)))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Volume of each label.
fn millilitres(labels: &Array3<u8>, spacing_mm: [f64; 3]) -> [f64; 256] {
    let mut voxels = [0u64; 256];
    labels.for_each(|&label| voxels[usize::from(label)] += 1);
    voxels.map(|voxels| voxels as f64 * spacing_mm.iter().product::<f64>() / 1000.0)
}

/// Pictures in the orientation that the network saw.
fn montage(
    open: &CaseOpen,
    image: &Image,
    labels: &Array3<u8>,
    truth: Option<&Array3<u8>>,
) -> Result<Montage> {
    let grid = &open.plan.grid;
    let first_channel = image.voxels.index_axis(ndarray::Axis(0), 0).reversed_axes(); // [x, y, z]
    let pictures = MontageInput {
        image: grid.to_network(first_channel),
        prediction: grid.to_network(labels.view()),
        truth: truth.map(|truth| grid.to_network(truth.view())),
        spacing_mm: grid.spacing_mm,
    };
    Ok(Montage::new(&pictures, &MontageConfig::default())?)
}
