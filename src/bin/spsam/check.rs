//! Checks before dora starts, so that mistakes are reported at once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use eyre::{Report, Result, WrapErr, bail};
use self_prompt_sam::bundle::{Bundle, BundleConfig, GeneratorKind};
use self_prompt_sam::runtime::loader::Loader;
use self_prompt_sam::runtime::{Failures, Settings, device_by_name, encode_setting, reason};
use self_prompt_sam::volume::{self, CaseFiles, CasePlan, Image};

/// Time limit for reading headers.
const HEADERS: Duration = Duration::from_millis(400);
/// A single volume up to this size (bytes as stored) is read completely.
const SMALL: u64 = 8 << 20;
/// Least number of bytes that a run writes.
const SOME_BYTES: usize = 64 << 10;

/// What the nodes will read: these settings, and what else is in the environment.
pub fn settings(given: &[(&'static str, OsString)]) -> Result<Settings> {
    let value =
        |name: &str| given.iter().find(|(known, _)| *known == name).map(|(_, value)| encode_setting(value));
    Settings::read(&|name| value(name).or_else(|| std::env::var_os(name)))
}

/// Checks the settings of an inference: device, model, input, output.
pub fn infer(settings: &Settings, device: &str, by_labels: bool) -> Result<()> {
    device_by_name(device)?;
    let bundle = settings.bundle()?;
    weights(&bundle)?;
    if !by_labels && bundle.config.network.generator == GeneratorKind::None {
        let Some(model) = &settings.model else { bail!("--prompts model needs --model") };
        let hint = "use --prompts labels with --labels or --box";
        bail!("{}: the model has no prompt generator: {hint}", model.display());
    }
    // The nodes log the warnings.
    let cases = quietly(|| cases(settings, &bundle))?;
    quietly(|| headers(&cases, &bundle.config))?;
    output(&settings.output)
}

fn quietly<T>(look: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), look)
}

/// Checks that the weight files of a bundle can be read; the nodes check their hashes.
pub fn weights(bundle: &Bundle) -> Result<()> {
    for file in std::iter::once(&bundle.config.weights).chain(&bundle.config.adapters) {
        let path = bundle.path_of(file);
        let opened = File::open(&path).and_then(|file| file.metadata());
        if opened.wrap_err_with(|| path.display().to_string())?.is_dir() {
            bail!("{}: is a folder, not a file of weights", path.display());
        }
    }
    Ok(())
}

fn cases(settings: &Settings, bundle: &Bundle) -> Result<Vec<CaseFiles>> {
    // Without a model and boxes the loader reads all labels, which takes long.
    if settings.model.is_some() || !settings.boxes.is_empty() {
        return Ok(Loader::new(settings.clone(), bundle)?.cases().to_vec());
    }
    let Some(input) = settings.input.as_deref() else { bail!("SPSAM_INPUT is not set") };
    Ok(volume::discover(input, settings.labels.as_deref(), bundle.config.modalities.len())?)
}

/// Fails if no case can be segmented. If only some cannot, the run names them.
fn headers(cases: &[CaseFiles], config: &BundleConfig) -> Result<()> {
    let started = Instant::now();
    let mut errors = Vec::new();
    for case in cases {
        match look_at(case, config, cases.len() == 1) {
            Ok(()) => return Ok(()),
            Err(error) => errors.push(reason(&error)),
        }
        if started.elapsed() > HEADERS {
            return Ok(());
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Report::new(Failures(errors))),
    }
}

fn look_at(case: &CaseFiles, config: &BundleConfig, is_single: bool) -> Result<()> {
    CasePlan::new(case, config, None)?;
    for image in &case.images {
        if is_single && image.metadata().is_ok_and(|about| about.len() <= SMALL) {
            Image::read(image)?;
        }
    }
    Ok(())
}

/// Makes the output folder and checks that it can be written to.
pub fn output(folder: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::tempfile_in(folder)?;
        file.write_all(&[0; SOME_BYTES])?;
        file.sync_data()
    };
    write().wrap_err_with(|| format!("{}: cannot write results there", folder.display()))
}
