//! The loader: reads cases ahead on a separate thread, sends their windows within the credits, sends lost windows
//! again, and ends when the writer has written every case.

mod classes;
pub(super) mod delivery;
pub(super) mod guard;
pub(super) mod outgoing;
pub(super) mod replicas;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::thread;

use dora_node_api::{DoraNode, EventStream};
use eyre::{Result, bail, eyre};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::command_start::command_start;
use super::events::{Flow, Happening, serve};
use super::join::join;
use super::settings::{NamedBox, Settings, variable};
use super::stage::{declared_outputs, panic_text};
use crate::bundle::{Bundle, BundleConfig};
use crate::volume::{
    BoxMm, CaseFiles, CasePlan, ClassTable, Discovery, PlanOptions, PreparedCase, masks_of_classes,
};
use delivery::Delivery;
use guard::refuse_to_overwrite;
use replicas::Replicas;
use run::Run;

/// Output of the labels.
const LABELS: &str = "labels";

/// The loader's task, checked before it joins the dataflow.
#[derive(Debug)]
pub struct Loader {
    settings: Settings,
    config: BundleConfig,
    /// The cases, including those that cannot be used.
    cases: Vec<CaseFiles>,
    /// Why a case cannot be used, by its index.
    unusable: BTreeMap<usize, String>,
    /// Region of interest of each case, if any.
    regions: Vec<Option<BoxMm>>,
    classes: ClassTable,
    /// Whether prompts come from labels; a case without labels then fails.
    oracle: bool,
}

impl Loader {
    /// Finds the cases of the input, and the classes.
    ///
    /// # Errors
    /// No input, an empty input, or labels that cannot be read.
    pub fn new(settings: Settings, bundle: &Bundle) -> Result<Self> {
        let input = settings.input.as_deref().ok_or_else(|| eyre!("SPSAM_INPUT is not set"))?;
        let config = bundle.config.clone();
        let found = Discovery::find(input, settings.labels.as_deref(), config.modalities.len())?;
        found.log();
        if let Some((_, error)) = found.without_labels.into_iter().next() {
            return Err(error.into());
        }
        let mut found_cases = found.cases;
        if settings.model.is_some() {
            let labels = found_cases.iter_mut().filter_map(|case| case.labels.as_mut());
            let others = masks_of_classes(labels, &ClassTable::of_model(&config.classes))?;
            if !others.is_empty() {
                tracing::warn!(
                    "masks that belong to none of the model's classes are ignored: {}",
                    others.join(", ")
                );
            }
        }
        let (mut cases, mut regions) = in_regions(found_cases, &settings.regions);
        let mut names = BTreeSet::new();
        if let Some(twice) = cases.iter().find(|case| !names.insert(&case.case_id)) {
            bail!("SPSAM_ROI: two cases would have the name `{}`", twice.case_id);
        }
        let oracle = variable("SPSAM_PROMPT_SOURCE").is_some_and(|source| source == "labels");
        if oracle && settings.labels.is_none() && settings.boxes.is_empty() {
            bail!("prompts come from labels in this dataflow: set SPSAM_LABELS or SPSAM_BOXES");
        }
        let mut unusable = BTreeMap::new();
        for (name, error) in found.unusable {
            unusable.insert(cases.len(), error.to_string());
            let case_id = free_name(&name, &cases);
            cases.push(CaseFiles { case_id, images: Vec::new(), labels: None });
            regions.push(None);
        }
        let classes = classes::of_run(&settings, &config, &cases, &mut unusable)?;
        let loader = Self { settings, config, cases, unusable, regions, classes, oracle };
        let loader = loader.of_part()?;
        refuse_to_overwrite(&loader.cases, &loader.settings)?;
        Ok(loader)
    }

    /// Keeps the cases of this run's part. The classes are those of all cases, so that label values are the same in all
    /// parts.
    fn of_part(self) -> Result<Self> {
        let part = self.settings.part;
        let (mut cases, mut regions, mut unusable) = (Vec::new(), Vec::new(), BTreeMap::new());
        let all = self.cases.len();
        for (index, (case, region)) in self.cases.into_iter().zip(self.regions).enumerate() {
            if part.takes(index) {
                unusable.extend(self.unusable.get(&index).map(|error| (cases.len(), error.clone())));
                cases.push(case);
                regions.push(region);
            }
        }
        if cases.is_empty() {
            bail!("SPSAM_PART, SPSAM_PARTS: no case is left for this part, as the input has {all}");
        }
        Ok(Self { cases, regions, unusable, ..self })
    }

    /// The cases of the input.
    pub fn cases(&self) -> &[CaseFiles] {
        &self.cases
    }

    /// The classes, background first.
    pub fn classes(&self) -> &ClassTable {
        &self.classes
    }

    /// Plans and reads the case with this index in [`Loader::cases`].
    ///
    /// # Errors
    /// Files that cannot be used; no labels if prompts come from labels.
    pub fn prepare(&self, index: usize) -> Result<(CasePlan, PreparedCase)> {
        if let Some(error) = self.unusable.get(&index) {
            bail!("{error}");
        }
        let files = &self.cases[index];
        let options = PlanOptions { roi_mm: self.regions[index], regrid: self.settings.regrid };
        let plan = CasePlan::with_options(files, &self.config, &options)?;
        let names = self.classes.names();
        let label_of = |name: &String| names.iter().position(|class| class == name).unwrap_or(0);
        let labelled = |named: &NamedBox| (label_of(&named.name) as u8, named.name.clone(), named.corners_mm);
        let boxes: Vec<_> = self.settings.boxes.iter().map(labelled).collect();
        let prepared = if boxes.is_empty() {
            let mut prepared = PreparedCase::open(&plan, &self.config)?;
            prepared.classify(&self.classes, &self.settings.ignore)?;
            prepared
        } else {
            PreparedCase::from_boxes(&plan, &self.config, &boxes)?
        };
        if self.oracle && prepared.label_window(0).is_none() {
            bail!("case {} has no labels to make prompts from", files.case_id);
        }
        Ok((plan, prepared))
    }

    /// Joins the dataflow and runs until every case is written.
    ///
    /// # Errors
    /// Names every case that could not be segmented.
    pub fn run(self) -> Result<()> {
        let (mut node, mut events) = join()?;
        self.serve(&mut node, &mut events)
    }

    fn serve(self, node: &mut DoraNode, events: &mut EventStream) -> Result<()> {
        let (to_reader, requests) = mpsc::channel::<usize>();
        let (to_io, prepared) = unbounded_channel();
        let reader = Arc::new(self);
        let image_size = reader.config.network.image_size;
        let replicas = Replicas::of(&declared_outputs(node));
        let mut delivery = Delivery::new(&reader.settings, reader.classes.clone(), image_size, replicas);
        delivery.commanded_unix_ms = command_start(node.dataflow_id());
        let mut run = Run::new(reader.clone(), to_reader, delivery);
        thread::Builder::new().name("reader".into()).spawn(move || read_cases(&reader, &requests, &to_io))?;
        serve(node, events, prepared, |node, happening| {
            match happening {
                Happening::Input { id, array, .. } => run.on_input(node, &id, &array)?,
                Happening::Computed((index, outcome)) => run.on_prepared(node, index, outcome)?,
                Happening::Tick => run.on_tick(node)?,
                Happening::ComputeEnded => bail!("the reader has ended"),
                Happening::InputClosed(id) if id == "ack" => return Err(run.ended_early("the writer ended")),
                Happening::InputClosed(_) => {}
                Happening::NodeFailed { node } => {
                    return Err(run.ended_early(&format!("node {node} died")));
                }
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

/// Combines every case with every region of interest. If there are several regions, their names are added to the
/// names of the cases.
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

/// The name, with a number if another case has it.
fn free_name(name: &str, cases: &[CaseFiles]) -> String {
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| cases.iter().all(|case| case.case_id != *name)).unwrap_or_default()
}
