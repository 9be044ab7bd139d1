//! The loader: reads cases ahead on a thread of its own, sends their windows within the credits, sends again
//! what was lost, and ends when the writer has every case on disk.

mod run;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use dora_node_api::{DoraNode, EventStream};
use eyre::{Result, bail, eyre};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::command_start::command_start;
use super::events::{Flow, Happening, serve};
use super::settings::{NamedBox, Settings, variable};
use super::stage::panic_text;
use crate::bundle::{Bundle, BundleConfig};
use crate::volume::{self, BoxMm, CaseFiles, CasePlan, PreparedCase};
use run::Run;

/// Output of the labels.
const LABELS: &str = "labels";

/// What the loader will do, checked before it joins the dataflow.
#[derive(Debug)]
pub struct Loader {
    settings: Settings,
    config: BundleConfig,
    cases: Vec<CaseFiles>,
    /// Region of interest of each case, where there is one.
    regions: Vec<Option<BoxMm>>,
    classes: Vec<String>,
    /// Prompts come from labels: cases without are failures.
    oracle: bool,
}

impl Loader {
    /// Finds the cases of the input and the classes.
    ///
    /// # Errors
    /// No input, nothing in it, or labels that cannot be read.
    pub fn new(settings: Settings, bundle: &Bundle) -> Result<Self> {
        let input = settings.input.as_deref().ok_or_else(|| eyre!("SPSAM_INPUT is not set"))?;
        let config = bundle.config.clone();
        let cases = volume::discover(input, settings.labels.as_deref(), config.modalities.len())?;
        let (cases, regions) = in_regions(cases, &settings.regions);
        let mut names = BTreeSet::new();
        if let Some(twice) = cases.iter().find(|case| !names.insert(&case.case_id)) {
            bail!("SPSAM_ROI: two cases would be called `{}`", twice.case_id);
        }
        refuse_to_overwrite(&cases, &settings.output)?;
        let oracle = variable("SPSAM_PROMPT_SOURCE").is_some_and(|source| source == "labels");
        if oracle && settings.labels.is_none() && settings.boxes.is_empty() {
            bail!("prompts come from labels in this dataflow: set SPSAM_LABELS or SPSAM_BOXES");
        }
        let classes = match (&settings.model, settings.boxes.is_empty()) {
            (Some(_), _) => config.classes.clone(),
            (None, false) => {
                let mut names = vec!["background".to_owned()];
                for named in &settings.boxes {
                    if !names.contains(&named.name) {
                        names.push(named.name.clone());
                    }
                }
                names
            }
            (None, true) => classes_in_labels(&cases)?,
        };
        if let Some(unknown) = settings.boxes.iter().find(|named| !classes.contains(&named.name)) {
            bail!("SPSAM_BOXES: `{}` is none of the model's classes {classes:?}", unknown.name);
        }
        Ok(Self { settings, config, cases, regions, classes, oracle })
    }

    /// The cases of the input.
    pub fn cases(&self) -> &[CaseFiles] {
        &self.cases
    }

    /// Names of the classes, background first.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Plans the case with this place in [`Loader::cases`] and reads it.
    ///
    /// # Errors
    /// Files that cannot be used; no labels where prompts are made from them.
    pub fn prepare(&self, index: usize) -> Result<(CasePlan, PreparedCase)> {
        let files = &self.cases[index];
        let plan = CasePlan::new(files, &self.config, self.regions[index])?;
        let label_of = |name: &String| self.classes.iter().position(|class| class == name).unwrap_or(0);
        let labelled = |named: &NamedBox| (label_of(&named.name) as u8, named.name.clone(), named.corners_mm);
        let boxes: Vec<_> = self.settings.boxes.iter().map(labelled).collect();
        let prepared = if boxes.is_empty() {
            PreparedCase::open(&plan, &self.config)?
        } else {
            PreparedCase::from_boxes(&plan, &self.config, &boxes)?
        };
        if self.oracle && prepared.label_window(0).is_none() {
            bail!("case {} has no labels to make prompts from", files.case_id);
        }
        Ok((plan, prepared))
    }

    /// Joins the dataflow and serves it until every case is on disk.
    ///
    /// # Errors
    /// Names every case that could not be segmented.
    pub fn run(self) -> Result<()> {
        let (mut node, mut events) =
            DoraNode::init_from_env().map_err(|error| eyre!("joining the dataflow: {error}"))?;
        self.serve(&mut node, &mut events)
    }

    fn serve(self, node: &mut DoraNode, events: &mut EventStream) -> Result<()> {
        let (to_reader, requests) = mpsc::channel::<usize>();
        let (to_io, prepared) = unbounded_channel();
        let reader = Arc::new(self);
        let sends_labels = node.node_config().outputs.iter().any(|output| output.as_ref() as &str == LABELS);
        let mut run = Run::new(reader.clone(), to_reader, sends_labels);
        run.commanded_unix_ms = command_start(node.dataflow_id());
        thread::Builder::new().name("reader".into()).spawn(move || read_cases(&reader, &requests, &to_io))?;
        serve(node, events, prepared, |node, happening| {
            match happening {
                Happening::Input { id, array, .. } => run.on_input(node, &id, &array)?,
                Happening::Computed((index, outcome)) => run.on_prepared(node, index, outcome)?,
                Happening::Tick => run.on_tick(node)?,
                Happening::ComputeEnded => bail!("the reader has ended"),
                Happening::InputClosed(id) if id == "ack" => return Err(run.ended_early("the writer ended")),
                Happening::InputClosed(_) => {}
                Happening::InputsClosed => return Err(run.ended_early("all nodes ended")),
                Happening::Stopped => return Err(run.ended_early("stopped")),
            }
            run.send_what_is_due(node)?;
            Ok(if run.end_is_acknowledged { Flow::Finish } else { Flow::Continue })
        })?;
        run.outcome()
    }
}

type Prepared = (usize, Result<(CasePlan, PreparedCase)>);

fn read_cases(loader: &Loader, requests: &mpsc::Receiver<usize>, to_io: &UnboundedSender<Prepared>) {
    for index in requests {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| loader.prepare(index)))
            .unwrap_or_else(|panic| Err(eyre!("{}", panic_text(&*panic))));
        if to_io.send((index, outcome)).is_err() {
            return;
        }
    }
}

/// Every case in every region of interest. Several regions have names, which the cases in them get.
fn in_regions(cases: Vec<CaseFiles>, regions: &[NamedBox]) -> (Vec<CaseFiles>, Vec<Option<BoxMm>>) {
    if regions.is_empty() {
        let none = vec![None; cases.len()];
        return (cases, none);
    }
    let in_region = |case: &CaseFiles, region: &NamedBox| {
        let mut case = case.clone();
        if !region.name.is_empty() {
            case.case_id = format!("{}_{}", case.case_id, region.name);
        }
        (case, Some(region.corners_mm))
    };
    cases.iter().flat_map(|case| regions.iter().map(move |region| in_region(case, region))).unzip()
}

/// Results are named as their cases: an output folder that holds the input must not cost anyone a scan.
fn refuse_to_overwrite(cases: &[CaseFiles], output: &Path) -> Result<()> {
    for case in cases {
        let Ok(target) = output.join(format!("{}.nii.gz", case.case_id)).canonicalize() else { continue };
        for file in case.images.iter().chain(&case.labels) {
            if file.canonicalize().is_ok_and(|file| file == target) {
                bail!(
                    "{}: the result would overwrite this file; choose another SPSAM_OUTPUT",
                    file.display()
                );
            }
        }
    }
    Ok(())
}

/// Names of the classes in the cases' labels: `class_1` to the largest label.
fn classes_in_labels(cases: &[CaseFiles]) -> Result<Vec<String>> {
    let mut largest = 1;
    for labels in cases.iter().filter_map(|case| case.labels.as_deref()) {
        match volume::read_labels(labels) {
            Ok((voxels, _)) => largest = largest.max(voxels.iter().copied().max().unwrap_or(0)),
            // Its case will fail by name when its turn comes; the others need not.
            Err(error) => tracing::warn!("{error}"),
        }
    }
    if largest == u8::MAX {
        bail!("the labels have the value 255: there can be 254 classes at most");
    }
    let names = (1..=largest).map(|class| format!("class_{class}"));
    Ok(std::iter::once("background".to_owned()).chain(names).collect())
}
