//! `spsam evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use eyre::{Result, WrapErr, bail, eyre};
use self_prompt_sam::files::write_atomically;
use self_prompt_sam::metrics::{CaseMetrics, Summary, evaluate_case};
use self_prompt_sam::report::{OutputRecord, write_metrics};
use self_prompt_sam::volume::dataset::pair;
use self_prompt_sam::volume::{IgnoreValues, Regrid};

use super::label_maps::{Volumes, class_table};

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

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let ignore: IgnoreValues =
            self.ignore.join(",").parse().map_err(|error: String| eyre!("--ignore: {error}"))?;
        if let Some(output) = self.output.as_deref().filter(|_| !self.overwrite) {
            OutputRecord::read(output)?.check(FILES)?;
        }
        let mut found = pair(&self.labels, &self.predictions)?;
        found.log();
        let table = class_table(&mut found.pairs, &self.classes, &ignore)?;
        let regrid = if self.resample_labels { Regrid::Resample } else { Regrid::Refuse };
        let mut metrics: Vec<CaseMetrics> = Vec::new();
        for pair in &found.pairs {
            let Volumes { truth, prediction, spacing_mm } = Volumes::read(pair, &ignore, &table, regrid)?;
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
