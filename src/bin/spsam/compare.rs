//! `spsam compare`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use eyre::{Result, WrapErr, bail};
use ndarray::{Array3, Axis};
use self_prompt_sam::bundle::SliceAxis;
use self_prompt_sam::metrics::{CaseMetrics, DEFAULT_TOLERANCE_MM, Summary, evaluate_case};
use self_prompt_sam::report::{
    CaseSection, ClassRow, Comparison, Montage, MontageConfig, MontageInput, OutputRecord, Report, Sides,
    write_metrics,
};
use self_prompt_sam::volume::dataset::{Pair, pair};
use self_prompt_sam::volume::{CaseFiles, ClassTable, Grid, Header, IgnoreValues, Image, Regrid, discover};

use super::label_maps::{Volumes, class_table};

#[derive(Args)]
pub struct Compare {
    /// The first result: a label map, or a folder of label maps such as the output folder of a run.
    a: PathBuf,
    /// The second result, with the same names.
    b: PathBuf,
    /// Images behind the outlines: a file or a folder as for `spsam infer`. Default: the folder `images` of A or B, as live
    /// runs write it; without images, outlines are on black.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Folder for comparison.html and metrics.csv.
    #[arg(long, default_value = "comparison")]
    output: PathBuf,
    /// Class names for the values 0 (the background), 1, 2, …, separated by commas; or `value=name`. By default those in
    /// the summary.json of A or B, else `class_<value>` for each value found.
    #[arg(long, value_delimiter = ',')]
    classes: Vec<String>,
    /// Resample label maps of B that are on another grid than those of A (nearest neighbour), instead of refusing them.
    #[arg(long, env = "SPSAM_RESAMPLE_LABELS", value_parser = FalseyValueParser::new())]
    resample_labels: bool,
    /// Overwrite comparison.html and metrics.csv even if no earlier run has written them.
    #[arg(long, env = "SPSAM_OVERWRITE", value_parser = FalseyValueParser::new())]
    overwrite: bool,
}

/// The files written to the output folder.
const FILES: [&str; 2] = ["comparison.html", "metrics.csv"];

impl Compare {
    pub fn run(self) -> Result<()> {
        if !self.overwrite {
            OutputRecord::read(&self.output)?.check(FILES)?;
        }
        let mut found = pair(&self.a, &self.b)?;
        let only_b: Vec<String> = found.unknown.iter().map(|path| path.display().to_string()).collect();
        let only_a = found.pairs.iter().filter(|pair| pair.prediction.is_none());
        let only_a: Vec<String> = only_a.map(|pair| pair.case_id.clone()).collect();
        found.pairs.retain(|pair| pair.prediction.is_some());
        if found.pairs.is_empty() {
            bail!("{} and {} have no case in common", self.a.display(), self.b.display());
        }
        let named = self.named_classes()?;
        let table = class_table(&mut found.pairs, &named, &IgnoreValues::default())?;
        let images = self.images()?;

        std::fs::create_dir_all(&self.output).wrap_err_with(|| format!("{}", self.output.display()))?;
        let mut record = OutputRecord::read(&self.output)?;
        record.begin(FILES)?;
        let mut report = Report::new(&self.output, Sides::RESULTS)?;
        let mut metrics: Vec<CaseMetrics> = Vec::new();
        for pair in &found.pairs {
            let section = self.section(pair, &table, images.get(&pair.case_id).map(PathBuf::as_path))?;
            print_case(&section);
            let classes = section.classes.iter().map(|row| row.metrics.clone()).collect();
            metrics.push(CaseMetrics { case_id: pair.case_id.clone(), classes });
            report.add_case(&section)?;
        }
        let summary = Summary::from_cases(&metrics, DEFAULT_TOLERANCE_MM);
        let in_order = table.names().into_iter().skip(1);
        let classes: Vec<_> =
            in_order.filter_map(|name| summary.classes.get(&name).map(|means| (name, *means))).collect();
        for (name, means) in &classes {
            println!(
                "{name}: mean Dice {:.4}, mean HD95 {:.3} mm, mean NSD {:.4}",
                means.dice, means.hd95_mm, means.nsd
            );
        }
        println!("mean Dice {:.4} over {} cases", summary.dice_mean, metrics.len());
        let (a, b) = (self.a.display().to_string(), self.b.display().to_string());
        let compared = Comparison { a, b, only_a: only_a.clone(), only_b: only_b.clone(), classes };
        report.write_comparison(&self.output.join("comparison.html"), &compared)?;
        write_metrics(&self.output.join("metrics.csv"), &metrics)?;
        record.complete(FILES)?;
        println!("comparison.html and metrics.csv are in {}", self.output.display());
        match (&*only_a, &*only_b) {
            ([], []) => Ok(()),
            (a, b) => bail!("not compared: only in A: {}; only in B: {}", list(a), list(b)),
        }
    }

    /// The classes that the user names, else those that the runs have noted, if they agree.
    fn named_classes(&self) -> Result<Vec<String>> {
        if !self.classes.is_empty() {
            return Ok(self.classes.clone());
        }
        match [&self.a, &self.b].map(|folder| recorded_classes(folder)) {
            [Some(a), Some(b)] if a != b => bail!(
                "the classes of {} ({}) and {} ({}) differ; --classes says what the values are",
                self.a.display(),
                a.join(", "),
                self.b.display(),
                b.join(", ")
            ),
            [a, b] => Ok(a.or(b).unwrap_or_default()),
        }
    }

    /// Images by case.
    fn images(&self) -> Result<HashMap<String, PathBuf>> {
        let of_a_live_run =
            || [&self.a, &self.b].map(|folder| folder.join("images")).into_iter().find(|path| path.is_dir());
        let Some(folder) = self.images.clone().or_else(of_a_live_run) else { return Ok(HashMap::new()) };
        let found = discover(&folder, None, 1)?;
        let first = |case: CaseFiles| Some((case.case_id, case.images.into_iter().next()?));
        Ok(found.into_iter().filter_map(first).collect())
    }

    fn section(&self, pair: &Pair, table: &ClassTable, image: Option<&Path>) -> Result<CaseSection> {
        let regrid = if self.resample_labels { Regrid::Resample } else { Regrid::Refuse };
        let volumes = Volumes::read(pair, &IgnoreValues::default(), table, regrid)?;
        let Volumes { truth, prediction, spacing_mm } = &volumes;
        let metrics = evaluate_case(
            truth.view(),
            prediction.view(),
            *spacing_mm,
            &table.names(),
            DEFAULT_TOLERANCE_MM,
        )?;
        let millilitre = spacing_mm.iter().product::<f64>() / 1000.0;
        let volume = |labels: &Array3<u8>, class: usize| {
            labels.iter().filter(|&&label| usize::from(label) == class).count() as f64 * millilitre
        };
        let rows = metrics.into_iter().zip(1..).map(|(metrics, class)| ClassRow {
            metrics,
            volume_ml: volume(prediction, class),
            truth_ml: Some(volume(truth, class)),
        });
        let classes = rows.collect();
        let montage = Some(montage(pair, &volumes, image)?);
        Ok(CaseSection { case_id: pair.case_id.clone(), classes, montage })
    }
}

/// Axial pictures of both results.
fn montage(pair: &Pair, volumes: &Volumes, image: Option<&Path>) -> Result<Montage> {
    let Volumes { truth, prediction, .. } = volumes;
    let Some(file) = pair.truth.files().first().copied() else { bail!("{}: no labels", pair.case_id) };
    let header = Header::read(file)?;
    let (x, y, z) = truth.dim();
    let grid = Grid::new([x, y, z], header.world_from_voxel(), SliceAxis::Axial);
    let black = || Array3::<f32>::zeros(truth.dim());
    let image = match image {
        Some(path) => {
            let image = Image::read(path)?.voxels.index_axis_move(Axis(0), 0).reversed_axes(); // [x, y, z]
            match image.dim() == truth.dim() {
                true => image,
                false => {
                    tracing::warn!(
                        "{}: another shape than {}; shown without it",
                        path.display(),
                        file.display()
                    );
                    black()
                }
            }
        }
        None => black(),
    };
    let input = MontageInput {
        image: grid.to_network(image.view()),
        prediction: grid.to_network(prediction.view()),
        truth: Some(grid.to_network(truth.view())),
        spacing_mm: grid.spacing_mm,
    };
    Ok(Montage::new(&input, &MontageConfig::default())?)
}

/// The classes that the run that wrote a folder has noted, as `value=name`.
fn recorded_classes(folder: &Path) -> Option<Vec<String>> {
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("summary.json")).ok()?).ok()?;
    let list = |name: &str| summary["model"][name].as_array().cloned();
    let (names, values) = (list("classes")?, list("label_values")?);
    let named = names
        .iter()
        .zip(&values)
        .map(|(name, value)| Some(format!("{}={}", value.as_u64()?, name.as_str()?)));
    let named: Vec<String> = named.collect::<Option<_>>()?;
    (named.len() > 1 && names.len() == values.len()).then_some(named)
}

fn print_case(section: &CaseSection) {
    for ClassRow { metrics, volume_ml, truth_ml } in &section.classes {
        println!(
            "{} {}: Dice {:.4}, HD95 {:.3} mm, NSD {:.4}, {:.2} ml in A, {volume_ml:.2} ml in B",
            section.case_id,
            metrics.class,
            metrics.dice,
            metrics.hd95_mm,
            metrics.nsd,
            truth_ml.unwrap_or(f64::NAN)
        );
    }
    if section.classes.is_empty() {
        println!("{}: only background", section.case_id);
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
