//! `spsam evaluate`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use eyre::{Result, WrapErr, bail, eyre};
use ndarray::Array3;
use self_prompt_sam::files::write_atomically;
use self_prompt_sam::metrics::{CaseMetrics, Summary, evaluate_case};
use self_prompt_sam::report::{OutputRecord, write_metrics};
use self_prompt_sam::volume::dataset::{Pair, pair};
use self_prompt_sam::volume::{
    self, ClassTable, Header, IgnoreValues, LabelFiles, Regrid, TargetGrid, USUAL_IGNORE_VALUE, VolumeError,
    masks_of_classes, number_masks,
};

#[derive(Args)]
pub struct Evaluate {
    /// Label maps to evaluate: a file or a folder. All volumes in it are taken as label maps, whatever their names.
    #[arg(long)]
    predictions: PathBuf,
    /// The truth: a file or a folder with the same names. It defines the cases: a case without a prediction counts
    /// with Dice 0, and the exit status is then 1.
    #[arg(long)]
    labels: PathBuf,
    /// Folder for metrics.csv and summary.json.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Class names for the values 0 (the background), 1, 2, …, separated by commas; or `value=name`. By default
    /// `class_<value>` for each value found.
    #[arg(long, value_delimiter = ',')]
    classes: Vec<String>,
    /// Label values of the truth whose voxels are excluded, such as 255; separated by commas, may be repeated.
    #[arg(long, env = "SPSAM_IGNORE_LABELS", value_delimiter = ',', value_name = "VALUES")]
    ignore: Vec<String>,
    /// Resample predictions that are on another grid than the truth (nearest neighbour), instead of refusing them.
    #[arg(long, env = "SPSAM_RESAMPLE_LABELS", value_parser = FalseyValueParser::new())]
    resample_labels: bool,
    /// Overwrite metrics.csv and summary.json in the output folder even if no earlier run has written them.
    #[arg(long, env = "SPSAM_OVERWRITE", value_parser = FalseyValueParser::new())]
    overwrite: bool,
    /// Tolerance of the normalised surface Dice, mm.
    #[arg(long, default_value_t = self_prompt_sam::metrics::DEFAULT_TOLERANCE_MM)]
    tolerance_mm: f64,
}

/// The files written to the output folder.
const FILES: [&str; 2] = ["metrics.csv", "summary.json"];

/// A case in memory, on the truth's grid; labels are indices into the table of classes.
struct Volumes {
    truth: Array3<u8>,
    prediction: Array3<u8>,
    spacing_mm: [f64; 3],
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let ignore: IgnoreValues =
            self.ignore.join(",").parse().map_err(|error: String| eyre!("--ignore: {error}"))?;
        if let Some(output) = self.output.as_deref().filter(|_| !self.overwrite) {
            OutputRecord::read(output)?.check(FILES)?;
        }
        let mut found = pair(&self.labels, &self.predictions)?;
        found.log();
        let table = self.classes(&mut found.pairs, &ignore)?;
        let regrid = if self.resample_labels { Regrid::Resample } else { Regrid::Refuse };
        let mut metrics: Vec<CaseMetrics> = Vec::new();
        for pair in &found.pairs {
            let Volumes { truth, prediction, spacing_mm } = read(pair, &ignore, &table, regrid)?;
            let (names, tolerance_mm) = (table.names(), self.tolerance_mm);
            let classes = evaluate_case(truth.view(), prediction.view(), spacing_mm, &names, tolerance_mm)
                .wrap_err_with(|| format!("{}", pair.truth.path().display()))?;
            let case = CaseMetrics { case_id: pair.case_id.clone(), classes };
            print_case(&case, pair.prediction.is_none());
            metrics.push(case);
        }
        let mut summary = Summary::from_cases(&metrics, self.tolerance_mm);
        let missing = found.pairs.iter().filter(|pair| pair.prediction.is_none());
        summary.missing = missing.map(|pair| pair.case_id.clone()).collect();
        print_means(&summary);
        if let Some(output) = &self.output {
            write(output, &metrics, &summary)?;
        }
        match summary.missing.len() {
            0 => Ok(()),
            missing => bail!(
                "{missing} of {} cases have no prediction in {} and count with Dice 0: {}",
                found.pairs.len(),
                self.predictions.display(),
                summary.missing.join(", ")
            ),
        }
    }

    /// The classes that the user names, else those of the masks, else the values found.
    fn classes(&self, pairs: &mut [Pair], ignore: &IgnoreValues) -> Result<ClassTable> {
        let labels =
            pairs.iter_mut().flat_map(|pair| std::iter::once(&mut pair.truth).chain(&mut pair.prediction));
        if !self.classes.is_empty() {
            let table = ClassTable::parse(&self.classes).map_err(|error| eyre!("--classes: {error}"))?;
            let others = masks_of_classes(labels, &table)?;
            if !others.is_empty() {
                tracing::warn!("masks that are none of the classes are left out: {}", others.join(", "));
            }
            return Ok(table);
        }
        match number_masks(labels).wrap_err("--classes value=name,… would say which value is which mask")? {
            Some(table) => Ok(table),
            None => Ok(ClassTable::of_values(values(pairs, ignore)?)),
        }
    }
}

fn print_case(case: &CaseMetrics, is_missing: bool) {
    let note = if is_missing { " (no prediction)" } else { "" };
    for class in &case.classes {
        println!(
            "{} {}: Dice {:.4}, HD95 {:.3} mm, NSD {:.4}{note}",
            case.case_id, class.class, class.dice, class.hd95_mm, class.nsd
        );
    }
    if case.classes.is_empty() {
        println!("{}: only background{note}", case.case_id);
    }
}

fn print_means(summary: &Summary) {
    for (name, class) in &summary.classes {
        println!(
            "{name}: mean Dice {:.4} over {} cases (absent: {}), mean HD95 {:.3} mm over {} cases (missed: {}; {:.3} mm with \
             the volume's diagonal where only one volume has the class), mean NSD {:.4}",
            class.dice,
            summary.cases - class.absent,
            class.absent,
            class.hd95_mm,
            class.hd95_cases,
            class.missed,
            class.hd95_mm_one_sided_as_diagonal,
            class.nsd
        );
    }
    println!(
        "mean Dice {:.4} over {} cases (missing: {})",
        summary.dice_mean,
        summary.cases,
        summary.missing.len()
    );
}

fn write(output: &Path, metrics: &[CaseMetrics], summary: &Summary) -> Result<()> {
    std::fs::create_dir_all(output).wrap_err_with(|| format!("{}", output.display()))?;
    let mut record = OutputRecord::read(output)?;
    record.begin(FILES)?;
    write_metrics(&output.join("metrics.csv"), metrics)?;
    let path = output.join("summary.json");
    write_atomically(&path, |file| {
        serde_json::to_writer_pretty(&mut *file, summary)?;
        file.write_all(b"\n")
    })
    .wrap_err_with(|| format!("{}", path.display()))?;
    record.complete(FILES)?;
    println!("metrics.csv and summary.json are in {}", output.display());
    Ok(())
}

/// All values of truth and predictions, except ignored ones.
fn values(pairs: &[Pair], ignore: &IgnoreValues) -> Result<BTreeSet<u8>> {
    let mut values = BTreeSet::new();
    for pair in pairs {
        for (labels, is_truth) in [(Some(&pair.truth), true), (pair.prediction.as_ref(), false)] {
            let Some(labels) = labels else { continue };
            let mut is_there = [false; 256];
            let read = labels.read(|path| Ok(volume::read_labels(path)?.0))?;
            read.iter().for_each(|&label| is_there[usize::from(label)] = true);
            let found =
                (0..=u8::MAX).filter(|&value| is_there[usize::from(value)] && !ignore.contains(value));
            let found: Vec<u8> = found.collect();
            if is_truth && found.contains(&USUAL_IGNORE_VALUE) {
                let error =
                    VolumeError::UnknownLabel { path: labels.path().into(), value: USUAL_IGNORE_VALUE };
                bail!("{error}; --classes 255=name makes it a class");
            }
            values.extend(found);
        }
    }
    Ok(values)
}

fn read(pair: &Pair, ignore: &IgnoreValues, table: &ClassTable, regrid: Regrid) -> Result<Volumes> {
    // The truth's grid: that of its file or of its first mask.
    let first = pair.truth.files().first().map(|path| Header::read(path)).transpose()?;
    let Some(header) = first else { bail!("{}: no labels", pair.truth.path().display()) };
    let grid = TargetGrid::from(&header);
    let read_on_grid = |labels: &LabelFiles| labels.read(|path| volume::read_labels_on(path, &grid, regrid));
    let mut truth = read_on_grid(&pair.truth)?;
    let mut prediction = match &pair.prediction {
        Some(labels) => read_on_grid(labels)?,
        None => Array3::zeros(truth.dim()),
    };
    let (truth_path, prediction_path) =
        (pair.truth.path(), pair.prediction.as_ref().unwrap_or(&pair.truth).path());
    ignore.clear_both(&mut truth, &mut prediction);
    for (labels, path) in [(&mut truth, truth_path), (&mut prediction, prediction_path)] {
        let unknown = |value| VolumeError::UnknownLabel { path: path.into(), value };
        table.to_indices(labels).map_err(unknown)?;
    }
    Ok(Volumes { truth, prediction, spacing_mm: header.spacing_mm() })
}
