//! `spsam send`.

mod mrd;
mod play;
mod queue;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use eyre::{Result, bail, eyre};
use self_prompt_sam::bundle::SliceAxis;
use self_prompt_sam::scanner::sender::{Destination, TimeLimits};

use play::{Player, Tally};
use queue::{Order, Queue};

#[derive(Args)]
pub struct Send {
    /// DICOM files and folders (with their subfolders), and NIfTI volumes, which are sent as MR images of nobody.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Address and port of the receiver.
    #[arg(long, default_value = "localhost:11112", value_name = "HOST:PORT")]
    to: String,
    /// Stream by MRD (ISMRMRD) to this server instead, on one connection, and count the masks that come back.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["to", "break_off", "repeat", "interleave"])]
    mrd: Option<String>,
    /// AE title by which the receiver is called.
    #[arg(long, default_value = "SPSAM", value_name = "TITLE")]
    aec: String,
    /// AE title of the sender.
    #[arg(long, default_value = "SPSAM-SEND", value_name = "TITLE")]
    aet: String,
    /// Images a second, as a scanner makes them; 0: as fast as the receiver takes them.
    #[arg(long, default_value_t = 5.0, value_parser = rate)]
    rate: f64,
    /// Send the images of a series in the random order of this seed.
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Take the images of several series in turn, instead of one series after the other.
    #[arg(long)]
    interleave: bool,
    /// Break the connection within image N, as a scanner that crashes, and then send everything again.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    break_off: Option<u32>,
    /// Send everything so many times, each on an association of its own. NIfTI volumes are another series each time, DICOM
    /// files are the same.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Anatomical axis along which the slices of NIfTI volumes are stacked: axial, coronal or sagittal. Default: that with the
    /// largest voxels, axial if all are equal.
    #[arg(long, value_name = "AXIS")]
    axis: Option<SliceAxis>,
    /// Wait so many seconds for the receiver to listen.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "expected a number from 0".into())
}

impl Send {
    pub fn run(self) -> Result<()> {
        if let Some(address) = &self.mrd {
            return self.stream(address);
        }
        let to = Destination::new(&self.to, &self.aec, &self.aet).map_err(|reason| eyre!(reason))?;
        let order = Order { seed: self.shuffle, interleave: self.interleave };
        let queue = Queue::find(&self.paths, self.axis)?;
        let count = queue.len();
        if self.break_off.is_some_and(|number| number as usize > count) {
            bail!("--break-off: there are only {count} images");
        }
        let mut player = Player::new(to, TimeLimits::default(), self.rate, count * self.repeat as usize);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome: Result<()> = runtime.block_on(async {
            for repetition in 0..self.repeat {
                let items = if repetition == 0 { queue.items(&order) } else { queue.again().items(&order) };
                let (first, wait) = (repetition == 0, Duration::from_secs(self.wait));
                if let Some(number) = self.break_off.filter(|_| first) {
                    player.break_off(&items, number as usize, wait).await?;
                }
                player.play(&items, wait).await?;
            }
            Ok(())
        });
        player.end();
        let Tally { seconds, stored, warnings, refused, .. } = player.tally();
        let done = stored + refused.len();
        if done > 0 {
            let series = queue.series() * self.repeat as usize;
            let a_second = done as f64 / seconds.max(1e-3);
            println!("sent {stored} images of {series} series in {seconds:.1} s ({a_second:.1} images/s)");
        }
        if let [first, ..] = &warnings[..] {
            println!("{} with a warning, the first: {first}", warnings.len());
        }
        outcome.map_err(|error| if done > 0 { eyre!("after {done} images: {error:#}") } else { error })?;
        match &refused[..] {
            [] => Ok(()),
            [only] => bail!("{only}"),
            [first, ..] => bail!("{} images were refused, the first: {first}", refused.len()),
        }
    }
    /// Streams by MRD.
    fn stream(&self, address: &str) -> Result<()> {
        let series = Queue::find(&self.paths, self.axis)?.by_series(self.shuffle);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let wait = Duration::from_secs(self.wait);
        let mrd::Returned { sent, masks, seconds, lines } =
            runtime.block_on(mrd::play(address, &series, self.rate, wait))?;
        println!("sent {sent} images of {} series; {masks} masks came back in {seconds:.1} s", series.len());
        lines.iter().for_each(|line| println!("{address}: {line}"));
        match lines.iter().find(|line| line.starts_with("ERROR")) {
            Some(line) => bail!("{address}: {line}"),
            None => Ok(()),
        }
    }
}
