//! Sends images at the pace of a scanner.

use std::time::Duration;

use eyre::{Result, bail};
use self_prompt_sam::scanner::sender::{Association, Destination, Outcome, SendError, TimeLimits};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::progress::Display;
use super::queue::Item;

/// Pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of the images.
#[derive(Debug, Default)]
pub struct Tally {
    /// From the first association to the end.
    pub seconds: f64,
    /// Images that the receiver has stored, those with a warning included.
    pub stored: usize,
    /// Name and warning of each image that was stored otherwise than it was sent.
    pub warnings: Vec<String>,
    /// Name and reason of each image that was refused.
    pub refused: Vec<String>,
}

/// Sends to one receiver.
pub struct Player {
    to: Destination,
    limits: TimeLimits,
    /// Images a second; 0: no pauses.
    rate: f64,
    display: Display,
    total: usize,
    began: Option<Instant>,
    tally: Tally,
}

impl Player {
    /// `total` images will be sent.
    pub fn new(to: Destination, limits: TimeLimits, rate: f64, total: usize) -> Self {
        let (display, tally) = (Display::new(false), Tally::default());
        Self { to, limits, rate, display, total, began: None, tally }
    }

    /// Sends the images on one association.
    pub async fn play(&mut self, items: &[Item], wait: Duration) -> Result<()> {
        let mut association = self.open(items, wait).await?;
        let began = Instant::now();
        for (index, item) in items.iter().enumerate() {
            self.pause(began, index).await;
            let instance = item.instance()?;
            let answer = association.store(&instance).await?;
            let said = || format!("{}: {answer}", instance.name());
            match answer.status.outcome() {
                Outcome::Success => self.tally.stored += 1,
                Outcome::Warning => {
                    self.tally.stored += 1;
                    self.tally.warnings.push(said());
                }
                Outcome::Failure => self.tally.refused.push(said()),
            }
            self.show();
        }
        association.release().await;
        Ok(())
    }

    /// Sends the images up to number `last` (from 1), and half of that one.
    pub async fn break_off(&mut self, items: &[Item], last: usize, wait: Duration) -> Result<()> {
        let mut association = self.open(items, wait).await?;
        let began = Instant::now();
        let Some((last, before)) = items.get(..last).and_then(|items| items.split_last()) else {
            bail!("no image {last}");
        };
        for (index, item) in before.iter().enumerate() {
            self.pause(began, index).await;
            association.store(&item.instance()?).await?;
        }
        association.break_off(&last.instance()?).await?;
        self.display.say(&format!("broken off within image {}; all is sent again", before.len() + 1));
        Ok(())
    }

    /// Takes the progress away.
    pub fn end(&mut self) {
        self.display.clear();
        self.tally.seconds = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Opens an association, if need be when the receiver listens.
    async fn open(&mut self, items: &[Item], wait: Duration) -> Result<Association> {
        let contexts = items.iter().map(Item::context).collect();
        let until = Instant::now() + wait;
        loop {
            match Association::open(&self.to, &self.limits, &contexts).await {
                Err(SendError::Connect { .. }) if Instant::now() < until => sleep(PAUSE).await,
                opened => {
                    let association = opened?;
                    self.began.get_or_insert_with(Instant::now);
                    return Ok(association);
                }
            }
        }
    }

    async fn pause(&self, began: Instant, index: usize) {
        if self.rate > 0.0 {
            sleep_until(began + Duration::from_secs_f64(index as f64 / self.rate)).await;
        }
    }

    fn show(&mut self) {
        let Tally { stored, refused, .. } = &self.tally;
        let done = stored + refused.len();
        let seconds = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let line = format!("image {done}/{}, {:.1} images/s", self.total, done as f64 / seconds.max(1e-3));
        self.display.show(done as f64 / self.total.max(1) as f64, line);
    }
}
