//! Everything that shows the progress of a run: the log, TensorBoard, `history.json` and `training.html`. None of
//! these can stop the run: if a file cannot be written, a warning is logged and the run continues.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::events::EventWriter;
use super::history::{History, Interval};
use super::page::write_page;
use crate::training::error::TrainingError;
use crate::training::optimise::Schedule;
use crate::training::trainer::{StepReport, Validated};

/// How often progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// The outputs that show the progress of a run.
pub struct Watch {
    folder: PathBuf,
    name: String,
    schedule: Schedule,
    /// Measurements so far.
    pub history: History,
    interval: Interval,
    events: Option<EventWriter>,
    /// Steps done and seconds passed before this process started.
    before: (u64, f64),
    started: Instant,
    /// Steps since the last log line.
    recent: Interval,
    logged: Instant,
}

impl Watch {
    /// For a run that has done `step` steps in `seconds`.
    ///
    /// # Errors
    /// A history that cannot be read.
    pub fn new(
        folder: &Path,
        name: &str,
        schedule: &Schedule,
        (step, seconds): (u64, f64),
    ) -> Result<Self, TrainingError> {
        let events = EventWriter::new(&folder.join("tensorboard"));
        Ok(Self {
            history: History::read(&folder.join("history.json"), step)?,
            folder: folder.into(),
            name: name.into(),
            schedule: schedule.clone(),
            interval: Interval::default(),
            events: kept("TensorBoard", events),
            before: (step, seconds),
            started: Instant::now(),
            recent: Interval::default(),
            logged: Instant::now(),
        })
    }

    /// Seconds of training so far.
    pub fn seconds(&self) -> f64 {
        self.before.1 + self.started.elapsed().as_secs_f64()
    }

    /// Records a step with `slices` slices that took `seconds`, of which it `waited` for windows.
    pub fn step(&mut self, report: StepReport, slices: usize, seconds: f64, waited: f64) {
        self.interval.add(report, slices, seconds, waited);
        self.recent.add(report, slices, seconds, waited);
        if self.interval.len() as u64 >= self.schedule.log_every_steps {
            self.end_interval();
        }
        if self.logged.elapsed() >= PROGRESS_EVERY {
            self.log_progress();
        }
    }

    fn end_interval(&mut self) {
        let Some(point) = std::mem::take(&mut self.interval).point(self.seconds()) else { return };
        let [encoder, generator, decoder] = point.gradient_norms;
        let scalars = [
            ("loss/auxiliary", Some(point.auxiliary_loss)),
            ("loss/final", point.final_loss),
            ("learning_rate", Some(point.learning_rate)),
            ("gradient_norm/encoder", Some(encoder)),
            ("gradient_norm/generator", Some(generator)),
            ("gradient_norm/decoder", Some(decoder)),
            ("slices_per_second", Some(point.slices_per_second)),
            ("waiting", Some(point.waiting)),
        ];
        self.write_events(|events| {
            scalars
                .iter()
                .filter_map(|(tag, value)| Some((tag, (*value)?)))
                .try_for_each(|(tag, value)| events.scalar(point.step, tag, value))
        });
        self.history.points.push(point);
    }

    fn log_progress(&mut self) {
        self.logged = Instant::now();
        let Some(point) = std::mem::take(&mut self.recent).point(self.seconds()) else { return };
        let (done, all) = (point.step, self.schedule.steps());
        let a_step = self.started.elapsed().as_secs_f64() / (done - self.before.0).max(1) as f64;
        let left = (a_step * (all - done) as f64) as u64;
        let output = point.final_loss.map_or(String::new(), |loss| format!(", final {loss:.4}"));
        tracing::info!(
            "epoch {}/{}, step {done}/{all}: loss auxiliary {:.4}{output}, rate {:.2e}, {:.1} slices/s, {:.0}% waiting, {}:{:02}:{:02} left",
            self.schedule.epoch(done - 1) + 1,
            self.schedule.epochs,
            point.auxiliary_loss,
            point.learning_rate,
            point.slices_per_second,
            point.waiting * 100.0,
            left / 3600,
            left / 60 % 60,
            left % 60
        );
    }

    /// Records a validation.
    pub fn validation(&mut self, validated: &Validated) {
        let figures = &validated.figures;
        let text = |dice: Option<f64>| dice.map_or("–".into(), |dice| format!("{dice:.4}"));
        let classes: Vec<String> =
            figures.output.classes.iter().map(|(name, dice)| format!("{name} {}", text(*dice))).collect();
        tracing::info!(
            "validation after step {} on {} cases: Dice {} ({}), auxiliary masks {}",
            figures.step,
            figures.cases,
            text(figures.output.mean),
            classes.join(", "),
            text(figures.auxiliary.mean)
        );
        self.write_events(|events| {
            for (of, dice) in [("output", &figures.output), ("auxiliary", &figures.auxiliary)] {
                let means = dice.mean.map(|mean| ("mean", mean));
                let classes = dice.classes.iter().filter_map(|(name, dice)| Some((name.as_str(), (*dice)?)));
                for (name, dice) in means.into_iter().chain(classes) {
                    events.scalar(figures.step, &format!("dice_{of}/{name}"), dice)?;
                }
            }
            for (index, picture) in validated.pictures.iter().enumerate() {
                events.picture(figures.step, &format!("overlay/{index}"), picture)?;
            }
            events.flush()
        });
        // A run that resumes at a validation repeats it.
        self.history.validations.retain(|other| other.step != figures.step);
        self.history.validations.push(figures.clone());
        self.logged = Instant::now();
        self.recent = Interval::default();
    }

    /// Writes everything to disk.
    pub fn write(&mut self) {
        self.end_interval();
        self.write_events(EventWriter::flush);
        kept("history.json", self.history.write(&self.folder.join("history.json")));
        kept("training.html", write_page(&self.folder.join("training.html"), &self.name, &self.history));
    }

    fn write_events(&mut self, write: impl FnOnce(&mut EventWriter) -> std::io::Result<()>) {
        if let Some(events) = &mut self.events {
            kept("TensorBoard", write(events));
        }
    }
}

fn kept<T, E: Display>(what: &str, result: Result<T, E>) -> Option<T> {
    result.map_err(|error| tracing::warn!("{what}: {error}; the training goes on")).ok()
}
