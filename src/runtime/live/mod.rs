//! The loader of `dataflows/stream.yml`: takes the images of series while they arrive.
//!
//! While a series goes on, its newest images are segmented with their neighbours: a provisional case, of which only masks are
//! sent. When it is complete, its volumes are written as NIfTI files and segmented as any other case, so that the result
//! is that of an offline run.

mod complete;
mod image;
mod provisional;
mod run;
mod series;
mod source_link;
mod stack;
mod work;

use std::sync::Arc;

use dora_node_api::{DoraNode, EventStream};
use eyre::{Result, bail};
use tokio::sync::mpsc::unbounded_channel;

pub use complete::IMAGES;

use super::command_start::command_start;
use super::events::{Flow, Happening, serve};
use super::join::{Leave, join};
use super::loader::delivery::Delivery;
use super::loader::guard::{refuse_results, refuse_to_overwrite};
use super::loader::replicas::Replicas;
use super::settings::{Settings, number};
use super::stage::declared_outputs;
use crate::bundle::{Bundle, BundleConfig};
use crate::report::segmentation_name;
use crate::volume::{BoxMm, CaseFiles, CasePlan, ClassTable, PlanOptions, PreparedCase};
use run::LiveRun;

/// Input of the images.
const FRAMES: &str = "frames";
/// Input of the state of series.
const SERIES: &str = "series";

/// The live loader's task, checked before it joins the dataflow.
#[derive(Debug)]
pub struct LiveLoader {
    settings: Settings,
    config: BundleConfig,
    provisional_model: BundleConfig,
    classes: ClassTable,
    region: Option<BoxMm>,
    /// Series after which the run ends; 0 = it goes on until it is stopped.
    series: usize,
}

impl LiveLoader {
    /// Whether the dataflow is a live one (`SPSAM_LIVE`).
    ///
    /// # Errors
    /// A value that is no number.
    pub fn is_asked_for() -> Result<bool> {
        Ok(number("SPSAM_LIVE", 0)? > 0)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// A model of several modalities; several regions of interest; no model; a result that would overwrite a file that no
    /// run has written.
    pub fn new(settings: Settings, bundle: &Bundle) -> Result<Self> {
        let config = bundle.config.clone();
        if settings.model.is_none() {
            bail!("SPSAM_MODEL is not set: name a model bundle, such as models/hippocampus");
        } else if config.modalities.len() != 1 {
            bail!(
                "model {}: needs images of {} modalities; a live series has one",
                config.name,
                config.modalities.len()
            );
        }
        let region = match settings.regions.as_slice() {
            [] => None,
            [region] => Some(region.corners_mm),
            regions => bail!("SPSAM_ROI has {} regions; live segmentation takes one", regions.len()),
        };
        refuse_to_overwrite(&[], &settings)?;
        Ok(Self {
            provisional_model: provisional::provisional_model(&config),
            classes: ClassTable::of_model(&config.classes),
            series: number("SPSAM_SERIES", 0)?,
            settings,
            config,
            region,
        })
    }

    /// Joins the dataflow and runs until it is stopped, or until `SPSAM_SERIES` series are written.
    ///
    /// # Errors
    /// Names the series that failed.
    pub fn run(self) -> Result<()> {
        let (mut node, mut events) = join()?;
        self.serve(&mut node, &mut events)
    }

    fn serve(self, node: &mut DoraNode, events: &mut EventStream) -> Result<()> {
        let loader = Arc::new(self);
        let (to_io, made) = unbounded_channel();
        let workers = [
            work::start("provisional", loader.clone(), to_io.clone())?,
            work::start("complete", loader.clone(), to_io)?,
        ];
        let image_size = loader.config.network.image_size;
        let replicas = Replicas::of(&declared_outputs(node));
        let mut delivery = Delivery::new(&loader.settings, loader.classes.clone(), image_size, replicas);
        delivery.commanded_unix_ms = command_start(node.dataflow_id());
        let mut run = LiveRun::new(loader, delivery, workers);
        run.hello(node)?;
        serve(node, events, made, |node, happening| {
            match happening {
                Happening::Input { id, parameters, array } if id == FRAMES => {
                    run.on_frame(node, &parameters, &array)?;
                }
                Happening::Input { id, array, .. } if id == SERIES => run.on_series(node, &array)?,
                Happening::Input { id, array, .. } => run.on_input(node, &id, &array)?,
                Happening::Computed(made) => run.on_made(node, made)?,
                Happening::Tick => run.on_tick(node)?,
                Happening::ComputeEnded => bail!("the working threads have ended"),
                Happening::InputClosed(id) if [FRAMES, SERIES, "ack"].contains(&&*id) => {
                    bail!(Leave::EndedEarly(format!("input `{id}` has ended")))
                }
                Happening::NodeFailed { node } => bail!(Leave::EndedEarly(format!("node {node} died"))),
                Happening::InputClosed(_) => {}
                Happening::InputsClosed | Happening::Stopped => return Ok(Flow::Finish),
            }
            run.proceed(node)?;
            Ok(if run.end_is_acknowledged { Flow::Finish } else { Flow::Continue })
        })?;
        run.outcome()
    }

    /// Plans and reads a volume of a complete series.
    fn prepare(&self, files: &CaseFiles, revision: i64) -> Result<(CasePlan, PreparedCase)> {
        // The writer is at work on the files of all cases, which were checked at the start.
        let segmentation = segmentation_name(&files.case_id, revision);
        let others = self.settings.segmentations.then_some(&*segmentation);
        refuse_results(std::slice::from_ref(files), others.as_slice(), &self.settings)?;
        let options = PlanOptions { roi_mm: self.region, regrid: self.settings.regrid };
        let plan = CasePlan::with_options(files, &self.config, &options)?;
        let prepared = PreparedCase::open(&plan, &self.config)?;
        Ok((plan, prepared))
    }
}
