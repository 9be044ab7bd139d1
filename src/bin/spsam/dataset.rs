//! Checks of a dataset, for `spsam inspect <dataset>` and for `spsam train` before the first step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Result, bail, eyre};
use indicatif::{ProgressBar, ProgressStyle};
use self_prompt_sam::survey::{Expected, Found, Survey, find};
use self_prompt_sam::training::{Cases, Divided, TrainingConfig, find_cases};
use self_prompt_sam::volume::{ClassTable, IgnoreValues, Regrid, number_masks};

/// The expectations against which a dataset is checked.
#[derive(Args)]
pub struct Dataset {
    /// Training configuration: check the dataset as `spsam train` does.
    #[arg(long, conflicts_with_all = ["classes", "ignore", "resample_labels"])]
    config: Option<PathBuf>,
    /// Folder of the labels. Default: the dataset's own.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Class names for the values 0 (the background), 1, …, or `value=name`. Default: those in dataset.json, else
    /// every value is a class.
    #[arg(long, value_delimiter = ',')]
    classes: Vec<String>,
    /// Label values to ignore, separated by commas.
    #[arg(long)]
    ignore: Option<IgnoreValues>,
    /// Accept labels and further modalities on another grid than the image.
    #[arg(long)]
    resample_labels: bool,
    /// Print everything as JSON, with each case.
    #[arg(long)]
    json: bool,
}

impl Dataset {
    /// Prints the fingerprint and all problems; fails if one is an error.
    pub fn inspect(self, path: &Path) -> Result<()> {
        let survey = match &self.config {
            Some(config) => {
                let mut config = TrainingConfig::open(config)?;
                config.data.folder = std::path::absolute(path)?;
                config.data.labels = self.labels.clone().or(config.data.labels.take());
                of_config(&config)?.0
            }
            None => self.survey_of(path)?.0,
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&survey)?);
        } else {
            println!("{survey}");
        }
        match survey.errors() {
            0 => Ok(()),
            errors => bail!("{}: {errors} errors in the dataset", path.display()),
        }
    }

    /// Without expectations of its own.
    pub fn of(labels: Option<PathBuf>) -> Self {
        let (classes, config, ignore) = (Vec::new(), None, None);
        Self { config, labels, classes, ignore, resample_labels: false, json: false }
    }

    /// The survey of a dataset, and the names of its modalities as far as dataset.json has them.
    pub fn survey_of(&self, path: &Path) -> Result<(Survey, Vec<String>)> {
        let mut found = find(path, self.labels.as_deref(), None)?;
        if self.labels.is_none() {
            found.allow_no_labels(path);
        }
        let Found { mut cases, problems, json, .. } = found;
        let masks = number_masks(cases.iter_mut().filter_map(|case| case.labels.as_mut()))?;
        let given = ClassTable::parse(&self.classes).map_err(|reason| eyre!("--classes: {reason}"))?;
        let named = |table: &ClassTable| -> BTreeMap<u8, String> {
            table.classes().iter().map(|class| (class.value, class.name.clone())).collect()
        };
        let classes = match (&masks, &json) {
            _ if !self.classes.is_empty() => named(&given),
            (Some(masks), _) => named(masks),
            (None, Some(json)) => json.classes.clone(),
            (None, None) => BTreeMap::new(),
        };
        let of_json = json.iter().filter_map(|json| json.ignore).collect();
        let expected = Expected {
            classes,
            ignore: self.ignore.clone().unwrap_or(of_json),
            regrid: if self.resample_labels { Regrid::Resample } else { Regrid::Refuse },
            modalities: json.as_ref().map(|json| json.modalities.len()).filter(|&count| count > 0),
        };
        let bar = progress(cases.len());
        let survey = Survey::of(path.into(), &cases, &expected, problems, || bar.inc(1));
        bar.finish_and_clear();
        Ok((survey, json.map(|json| json.modalities).unwrap_or_default()))
    }
}

/// The cases of a configuration, if they can be trained on.
pub fn checked(config: &TrainingConfig) -> Result<Divided> {
    let (survey, cases) = of_config(config)?;
    Ok(cases.accepted(&survey)?)
}

fn of_config(config: &TrainingConfig) -> Result<(Survey, Cases)> {
    let cases = find_cases(config)?;
    let bar = progress(cases.len());
    let survey = cases.survey(config, || bar.inc(1));
    bar.finish_and_clear();
    Ok((survey, cases))
}

/// Shown only on a terminal.
fn progress(cases: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("checking the dataset {bar:30} {pos}/{len} cases {eta}");
    let bar = ProgressBar::new(cases as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
