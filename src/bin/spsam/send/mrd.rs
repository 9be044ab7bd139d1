//! Plays a scanner that streams by MRD, and counts the masks that come back.

use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
use self_prompt_sam::dicom::Images;
use self_prompt_sam::scanner::mrd::{
    Fault, Message, MessageKind, ReadLimits, Reader, encode_header_text, encode_slice,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, sleep, sleep_until};

use super::queue::Item;

/// Pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// Instead of a description of the scan; other clients send the same.
const DUMMY: &str = "Dummy XML header";

/// What came back.
#[derive(Debug, Default)]
pub struct Returned {
    pub sent: usize,
    pub masks: usize,
    pub seconds: f64,
    /// Lines for the scanner's log.
    pub lines: Vec<String>,
}

/// Sends the images of each series on one connection at `rate` images a second (0: no pauses), and waits for the masks.
pub async fn play(address: &str, series: &[Vec<Item>], rate: f64, wait: Duration) -> Result<Returned> {
    let (from, mut to) = connect(address, wait).await?.into_split();
    let receiving = tokio::spawn(receive(from));
    let began = Instant::now();
    let lost = || format!("{address}: the connection is lost");
    to.write_all(&encode_header_text(DUMMY)).await.wrap_err_with(lost)?;
    let mut returned = Returned::default();
    for (number, items) in series.iter().enumerate() {
        let mut index = 0;
        for item in items {
            for message in messages(item, number as u16 + 1, &mut index)? {
                if rate > 0.0 {
                    sleep_until(began + Duration::from_secs_f64(returned.sent as f64 / rate)).await;
                }
                to.write_all(&message).await.wrap_err_with(lost)?;
                returned.sent += 1;
            }
        }
    }
    to.write_all(&MessageKind::Close.id().to_le_bytes()).await.wrap_err_with(lost)?;
    let received = receiving.await.wrap_err("receiving masks")?;
    (returned.masks, returned.lines) = received.map_err(|fault| eyre!("{address}: {fault}"))?;
    returned.seconds = began.elapsed().as_secs_f64();
    Ok(returned)
}

async fn connect(address: &str, wait: Duration) -> Result<TcpStream> {
    let until = Instant::now() + wait;
    loop {
        match TcpStream::connect(address).await {
            Err(_) if Instant::now() < until => sleep(PAUSE).await,
            connected => return connected.wrap_err_with(|| format!("cannot connect to {address}")),
        }
    }
}

/// The number of images that come until CLOSE, and the lines.
async fn receive(from: OwnedReadHalf) -> Result<(usize, Vec<String>), Fault> {
    let day = Duration::from_secs(24 * 60 * 60);
    let mut reader = Reader::new(from, ReadLimits { pause: day, stall: day, ..ReadLimits::default() });
    let (mut masks, mut lines) = (0, Vec::new());
    loop {
        match reader.next().await? {
            Message::Image(..) => masks += 1,
            Message::Text(text) => {
                let text = String::from_utf8_lossy(&text);
                lines.push(text.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" "));
            }
            Message::Close => return Ok((masks, lines)),
            Message::Config | Message::Header(_) | Message::Skipped(_) => {}
        }
    }
}

/// The images of a file, or a slice.
fn messages(item: &Item, series: u16, index: &mut u16) -> Result<Vec<Vec<u8>>> {
    let mut images = match item {
        Item::File(file) => Images::open(&file.path)?,
        Item::Slice(series, slice) => {
            let object = series.image(*slice).map_err(|reason| eyre!("slice {}: {reason}", slice + 1))?;
            let file = tempfile::NamedTempFile::new()?;
            object.write_to_file(file.path()).wrap_err("a temporary file")?;
            let mut images = Images::open(file.path())?;
            images.pixels(0)?; // it is open from now on
            images
        }
    };
    let count = images.count();
    let message = |image: usize| {
        let (placement, pixels) = (images.placement(image)?, images.pixels(image)?);
        *index = index.checked_add(1).ok_or_else(|| eyre!("more than 65535 images in a series"))?;
        if placement.rows.max(placement.columns) > usize::from(u16::MAX) {
            bail!("an image of {} × {} pixels", placement.rows, placement.columns);
        }
        Ok(encode_slice(&placement, &pixels, series, *index))
    };
    (0..count).map(message).collect()
}
