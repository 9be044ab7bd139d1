//! `spsam evaluate`.

use std::path::PathBuf;

use clap::Args;
use eyre::{Result, bail};
use ndarray::Array3;
use self_prompt_sam::files::write_atomically;
use self_prompt_sam::metrics::{CaseMetrics, Summary, evaluate_case};
use self_prompt_sam::report::write_metrics;
use self_prompt_sam::volume::{self, CaseFiles, VolumeError};

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
        let mut largest = 1;
        if self.classes.is_empty() {
            for case in &cases {
                let (truth, prediction, _) = read_pair(case)?;
                largest = truth.iter().chain(&prediction).copied().fold(largest, u8::max);
            }
        }
        let classes = match self.classes.is_empty() {
            true => std::iter::once("background".into())
                .chain((1..=largest).map(|class| format!("class_{class}")))
                .collect(),
            false => self.classes,
        };
        let mut metrics: Vec<CaseMetrics> = Vec::new();
        for case in &cases {
            let (truth, prediction, spacing_mm) = read_pair(case)?;
            let figures =
                evaluate_case(truth.view(), prediction.view(), spacing_mm, &classes, self.tolerance_mm)?;
            let case = CaseMetrics { case_id: case.case_id.clone(), classes: figures };
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

/// Truth, prediction and voxel size of a case.
fn read_pair(case: &CaseFiles) -> Result<(Array3<u8>, Array3<u8>, [f64; 3])> {
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
    Ok((truth, prediction, spacing_mm))
}
