//! The loader in training: prepares windows ahead on separate threads, and sends those of a step when they are
//! ordered.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use dora_node_api::{DoraNode, MetadataParameters};
use eyre::{Result, bail, eyre};
use tch::Tensor;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use uuid::Uuid;

use super::{Closed, TrainingRun};
use crate::message::control::{Order, Supply, from_json, to_json};
use crate::message::{SliceHeader, WireKind, encode_text, text};
use crate::runtime::events::{Flow, Happening, send, serve};
use crate::runtime::join::join;
use crate::runtime::settings::variable;
use crate::runtime::stage::{Emit, Output, declared_outputs};
use crate::training::{
    Divided, Prefetch, Sample, Sampler, TrainingConfig, TrainingError, divide, find_cases, slices_of,
};

/// The windows of a step, and how long the loader waited for them, seconds.
type Drawn = Result<(u64, Vec<Sample>, f64), TrainingError>;

/// Joins the dataflow and supplies windows until the end of the run.
///
/// # Errors
/// A dataset that cannot be used; a node that ends before the run does.
pub fn run_loader(run: &TrainingRun) -> Result<()> {
    let config = Arc::new(run.config.clone());
    let Divided { training, validation } = cases(&config)?;
    let (cases, others) = (training.len(), validation.len());
    tracing::info!("{}: {cases} cases to learn from, {others} to validate on", config.model.name);
    let sampler = Arc::new(Sampler::of_config(&config, training));
    let first = run.checkpoint()?.map_or(0, |(manifest, _)| manifest.step);
    let (to_reader, orders) = mpsc::channel();
    let (to_io, drawn) = unbounded_channel();
    let reader_config = config.clone();
    thread::Builder::new()
        .name("reader".into())
        .spawn(move || draw(&reader_config, &sampler, first, &orders, &to_io))?;

    let (mut node, mut events) = join()?;
    let session_id = Uuid::new_v4().to_string();
    let mut closed = Closed::default();
    // The last step that was ordered, its attempt, and its windows once they are ready.
    let mut current: Option<(u64, i64)> = None;
    let mut held: Option<(u64, Vec<Sample>)> = None;
    serve(&mut node, &mut events, drawn, |node, happening| {
        match happening {
            Happening::Input { id, array, .. } if id == "order" => match from_json(text(&array)?)? {
                Order::End => return Ok(Flow::Finish),
                Order::Step { step, attempt } => {
                    let is_new = current.is_none_or(|(last, _)| step != last);
                    current = Some((step, attempt));
                    if is_new {
                        held = None;
                        to_reader.send(step).map_err(|_| eyre!("the reader has ended"))?;
                    } else if let Some((step, samples)) = &held {
                        send_step(node, &config, &session_id, (*step, attempt), samples)?;
                    }
                }
            },
            Happening::Input { .. } => {}
            Happening::Computed(Ok((step, samples, waited))) => {
                let attempt = current.filter(|(last, _)| *last == step).map_or(0, |(_, attempt)| attempt);
                send_step(node, &config, &session_id, (step, attempt), &samples)?;
                supply(node, &Supply::Sent { step, waited })?;
                held = Some((step, samples));
            }
            Happening::Computed(Err(error)) => supply(node, &Supply::Failed(error.to_string()))?,
            Happening::Tick => {
                if current.is_some() && held.is_none() {
                    supply(node, &Supply::Working)?;
                }
                closed.check()?;
            }
            Happening::ComputeEnded => bail!("the reader has ended"),
            Happening::NodeFailed { .. } => {}
            Happening::InputClosed(id) => closed.note(id),
            Happening::InputsClosed => closed.note("order".into()),
            Happening::Stopped => return Ok(Flow::Finish),
        }
        Ok(Flow::Continue)
    })
}

/// The cases of the run, checked as `spsam train` does before it starts the dataflow.
fn cases(config: &TrainingConfig) -> Result<Divided> {
    if variable("SPSAM_DATA_CHECKED").as_deref() == Some("1") {
        return Ok(divide(config)?);
    }
    let cases = find_cases(config)?;
    let survey = cases.survey(config, || {});
    Ok(cases.accepted(&survey)?)
}

fn supply(node: &mut DoraNode, supply: &Supply) -> Result<()> {
    send(node, "supply", MetadataParameters::new(), encode_text(&to_json(supply)?))
}

/// The reader thread: steps are ordered one after another, starting with `first`.
fn draw(
    config: &TrainingConfig,
    sampler: &Arc<Sampler>,
    first: u64,
    orders: &mpsc::Receiver<u64>,
    to_io: &UnboundedSender<Drawn>,
) {
    let windows = config.schedule.windows_per_step;
    let mut prefetch = match Prefetch::new(sampler, first * windows as u64, config.prefetch) {
        Ok(prefetch) => prefetch,
        Err(error) => {
            let _ = to_io.send(Err(error));
            return;
        }
    };
    for (step, expected) in orders.iter().zip(first..) {
        if step != expected {
            let error = format!("step {step} is ordered, but the windows are those of step {expected}");
            let _ = to_io.send(Err(TrainingError::Loader(error)));
            return;
        }
        let started = Instant::now();
        let samples: Result<Vec<Sample>, _> = (0..windows).map(|_| prefetch.next_sample()).collect();
        let drawn = samples.map(|samples| (step, samples, started.elapsed().as_secs_f64()));
        if to_io.send(drawn).is_err() {
            return;
        }
    }
}

fn send_step(
    node: &mut DoraNode,
    config: &TrainingConfig,
    session_id: &str,
    (step, attempt): (u64, i64),
    samples: &[Sample],
) -> Result<()> {
    let outputs = declared_outputs(node);
    for (place, sample) in (0..).zip(samples) {
        let slices = slices_of(&sample.images);
        let labels = sample.labels.as_standard_layout();
        let labels = Tensor::from_slice(labels.as_slice().unwrap_or_default())
            .view([labels.dim().0, labels.dim().1, labels.dim().2].map(|size| size as i64));
        let header = SliceHeader {
            session_id: session_id.to_owned(),
            segment_id: i64::try_from(step)? * samples.len() as i64 + place,
            attempt,
            seq: 0,
            count: slices.size()[0],
            case_id: sample.case_id.clone(),
            classes: config.model.classes.len() as i64,
            image_size: Some(config.model.network.image_size),
            level: None,
            slices: None,
            covered: None,
            times: Default::default(),
            shape: Vec::new(),
        };
        let mut outcome = Ok(());
        let mut sink = |output: Output| {
            if outcome.is_ok() {
                outcome = output.send(node);
            }
        };
        let mut emit = Emit::new(&outputs, &mut sink);
        emit.slices("slices", &header, &slices, WireKind::Float32, None);
        emit.slices("labels", &header, &labels, WireKind::UInt8, None);
        outcome?;
    }
    Ok(())
}
