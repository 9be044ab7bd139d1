//! `spsam evaluate`.

use std::path::PathBuf;

use clap::Args;
use eyre::{Result, bail};
use self_prompt_sam::files::write_atomically;
use self_prompt_sam::metrics::{CaseMetrics, Summary, evaluate_case};
use self_prompt_sam::report::write_metrics;
use self_prompt_sam::volume::{self, VolumeError};

#[derive(Args)]
pub struct Evaluate {
    /// Label maps to judge: a file or a folder.
    #[arg(long)]
    predictions: PathBuf,
    /// The truth: a file or a folder with the same names.
    #[arg(long)]
    labels: PathBuf,
    /// Folder for metrics.csv and summary.json.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Class names, background first, comma-separated; `class_1` and so on by default.
    #[arg(long, value_delimiter = ',')]
    classes: Vec<String>,
    /// Tolerance of the normalised surface Dice, mm.
    #[arg(long, default_value_t = self_prompt_sam::metrics::DEFAULT_TOLERANCE_MM)]
    tolerance_mm: f64,
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let cases = volume::discover(&self.predictions, Some(&self.labels), 1)?;
        let mut pairs = Vec::new();
        let mut largest = 1;
        for case in &cases {
            let (Some(image), Some(labels)) = (case.images.first(), &case.labels) else {
                bail!("case {}: no labels", case.case_id);
            };
            let (prediction, _) = volume::read_labels(image)?;
            let (truth, spacing_mm) = volume::read_labels(labels)?;
            if prediction.dim() != truth.dim() {
                let shape = |(x, y, z): (usize, usize, usize)| [x, y, z];
                return Err(VolumeError::ShapeMismatch {
                    path: labels.clone(),
                    shape: shape(truth.dim()),
                    image: image.clone(),
                    image_shape: shape(prediction.dim()),
                }
                .into());
            }
            largest = prediction.iter().chain(&truth).copied().fold(largest, u8::max);
            pairs.push((case.case_id.clone(), truth, prediction, spacing_mm));
        }
        let classes = match self.classes.is_empty() {
            true => std::iter::once("background".into())
                .chain((1..=largest).map(|class| format!("class_{class}")))
                .collect(),
            false if self.classes.len() <= usize::from(largest) => {
                bail!("label {largest} is there, but --classes names only {}", self.classes.len())
            }
            false => self.classes,
        };
        let mut metrics: Vec<CaseMetrics> = Vec::new();
        for (case_id, truth, prediction, spacing_mm) in pairs {
            let figures =
                evaluate_case(truth.view(), prediction.view(), spacing_mm, &classes, self.tolerance_mm)?;
            let case = CaseMetrics { case_id, classes: figures };
            for class in &case.classes {
                println!(
                    "{} {}: Dice {:.4}, HD95 {:.3} mm, NSD {:.4}",
                    case.case_id, class.class, class.dice, class.hd95_mm, class.nsd
                );
            }
            metrics.push(case);
        }
        let summary = Summary::from_cases(&metrics, self.tolerance_mm);
        println!("mean Dice {:.4} over {} cases", summary.dice_mean, metrics.len());
        if let Some(output) = &self.output {
            std::fs::create_dir_all(output)?;
            write_metrics(&output.join("metrics.csv"), &metrics)?;
            let path = output.join("summary.json");
            write_atomically(&path, |file| {
                serde_json::to_writer_pretty(&mut *file, &summary)?;
                Ok(())
            })?;
            println!("metrics.csv and summary.json are in {}", output.display());
        }
        Ok(())
    }
}
