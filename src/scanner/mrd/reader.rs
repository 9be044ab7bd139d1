//! Messages from a connection, one after the other. Nothing is allocated that has not arrived.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::fault::Fault;
use super::header::{HEADER_BYTES, ImageHeader, Layout};
use super::kind::MessageKind;

/// Size of a CONFIG_FILE.
const CONFIG_FILE_BYTES: u64 = 1024;
/// Sizes of the headers of acquisitions and waveforms.
const ACQUISITION_BYTES: usize = 340;
const WAVEFORM_BYTES: usize = 40;
/// Most bytes of pixels that are read at once: whole pixels of any type.
const CHUNK_BYTES: usize = 1 << 18;
/// A message must come at least this fast, bytes per second, once it has taken as long as a pause in it may.
const LEAST_RATE: u64 = 1 << 10;

/// What a client may send.
#[derive(Debug, Clone)]
pub struct ReadLimits {
    /// Longest text: header, configuration or message, bytes; 4 MiB.
    pub text_bytes: u32,
    /// Longest attributes of an image, bytes; 4 MiB.
    pub attribute_bytes: u64,
    /// Most bytes of an image's pixels, or of the samples of an acquisition; 1 GiB.
    pub pixel_bytes: u64,
    /// Longest pause between messages once the scan is described.
    pub pause: Duration,
    /// Longest pause within a message, and before the scan is described.
    pub stall: Duration,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            text_bytes: 4 << 20,
            attribute_bytes: 4 << 20,
            pixel_bytes: 1 << 30,
            pause: Duration::from_secs(30 * 60),
            stall: Duration::from_secs(60),
        }
    }
}

/// A message. The pixels of an image are still to be read.
#[derive(Debug)]
pub enum Message {
    /// A configuration; it says nothing to us.
    Config,
    /// Description of the scan.
    Header(Vec<u8>),
    /// A line of a log, or settings as JSON.
    Text(Vec<u8>),
    Image(Box<ImageHeader>, Layout, Vec<u8>),
    /// A message that is not used.
    Skipped(Skipped),
    Close,
}

/// Kinds of messages that are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    Acquisition,
    Waveform,
}

/// Reads messages.
pub struct Reader<R> {
    source: R,
    limits: ReadLimits,
    is_described: bool,
    /// When the message began, and the bytes of it that have come.
    began: Instant,
    bytes: u64,
    /// Bytes of pixels that are still to be read.
    left: u64,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(source: R, limits: ReadLimits) -> Self {
        Self { source, limits, is_described: false, began: Instant::now(), bytes: 0, left: 0 }
    }

    /// The next message. Pixels of the one before that were not read are skipped.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn next(&mut self) -> Result<Message, Fault> {
        self.skip_pixels().await?;
        let kind = self.kind().await?;
        let message = match kind {
            MessageKind::ConfigFile => {
                self.skip(CONFIG_FILE_BYTES).await?;
                Message::Config
            }
            MessageKind::ConfigText => {
                self.text().await?;
                Message::Config
            }
            MessageKind::Header => {
                self.is_described = true;
                Message::Header(self.text().await?)
            }
            MessageKind::Text => Message::Text(self.text().await?),
            MessageKind::Close => Message::Close,
            MessageKind::Acquisition => self.acquisition().await?,
            MessageKind::Waveform => self.waveform().await?,
            MessageKind::Image => self.image().await?,
        };
        Ok(message)
    }

    /// The next pixels of the image that came last, whole pixels at most 256 KiB; empty after the last.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn pixels(&mut self) -> Result<Vec<u8>, Fault> {
        let length = self.left.min(CHUNK_BYTES as u64);
        let mut chunk = vec![0; length as usize];
        self.fill(&mut chunk).await?;
        self.left -= length;
        Ok(chunk)
    }

    async fn skip_pixels(&mut self) -> Result<(), Fault> {
        let left = std::mem::take(&mut self.left);
        self.skip(left).await
    }

    async fn kind(&mut self) -> Result<MessageKind, Fault> {
        let pause = if self.is_described { self.limits.pause } else { self.limits.stall };
        let mut id = [0; 2];
        let first = timeout(pause, self.source.read(&mut id[..1])).await.map_err(|_| Fault::Idle)?;
        if first? == 0 {
            return Err(Fault::Left);
        }
        (self.began, self.bytes) = (Instant::now(), 1);
        self.fill(&mut id[1..]).await?;
        MessageKind::of(u16::from_le_bytes(id)).map_err(Fault::Broken)
    }

    async fn image(&mut self) -> Result<Message, Fault> {
        let mut bytes = [0; HEADER_BYTES];
        self.fill(&mut bytes).await?;
        let header = ImageHeader::parse(&bytes);
        let layout = header.layout().map_err(Fault::Broken)?;
        self.check("an image", layout.bytes())?;
        let mut length = [0; 8];
        self.fill(&mut length).await?;
        let length = u64::from_le_bytes(length);
        let most = self.limits.attribute_bytes;
        if length > most {
            return Err(Fault::Broken(format!("attributes of {length} bytes; at most {most} are allowed")));
        }
        let attributes = self.take(length).await?;
        self.left = layout.bytes();
        Ok(Message::Image(Box::new(header), layout, attributes))
    }

    async fn acquisition(&mut self) -> Result<Message, Fault> {
        let mut header = [0; ACQUISITION_BYTES];
        self.fill(&mut header).await?;
        let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (samples, channels, dimensions) = (short(34), short(38), short(176));
        let bytes = samples * (channels * 8 + dimensions * 4);
        self.check("an acquisition", bytes)?;
        self.skip(bytes).await?;
        Ok(Message::Skipped(Skipped::Acquisition))
    }

    async fn waveform(&mut self) -> Result<Message, Fault> {
        let mut header = [0; WAVEFORM_BYTES];
        self.fill(&mut header).await?;
        let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let bytes = short(28) * short(30) * 4;
        self.check("a waveform", bytes)?;
        self.skip(bytes).await?;
        Ok(Message::Skipped(Skipped::Waveform))
    }

    fn check(&self, what: &str, bytes: u64) -> Result<(), Fault> {
        let most = self.limits.pixel_bytes;
        match bytes <= most {
            true => Ok(()),
            false => Err(Fault::Broken(format!("{what} of {bytes} bytes; at most {most} are allowed"))),
        }
    }

    async fn text(&mut self) -> Result<Vec<u8>, Fault> {
        let mut length = [0; 4];
        self.fill(&mut length).await?;
        let (length, most) = (u32::from_le_bytes(length), self.limits.text_bytes);
        if length > most {
            return Err(Fault::Broken(format!("a text of {length} bytes; at most {most} are allowed")));
        }
        self.take(length.into()).await
    }

    /// Bytes in memory that grows as they come.
    async fn take(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let start = bytes.len();
            let more = (length - start as u64).min(CHUNK_BYTES as u64);
            bytes.resize(start + more as usize, 0);
            self.fill(&mut bytes[start..]).await?;
        }
        Ok(bytes)
    }

    async fn skip(&mut self, length: u64) -> Result<(), Fault> {
        let mut left = length;
        let mut chunk = vec![0; length.min(CHUNK_BYTES as u64) as usize];
        while left > 0 {
            let part = left.min(chunk.len() as u64);
            self.fill(&mut chunk[..part as usize]).await?;
            left -= part;
        }
        Ok(())
    }

    async fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let read = timeout(self.limits.stall, self.source.read(bytes)).await.map_err(|_| Fault::Idle)?;
            let length = read?;
            if length == 0 {
                return Err(Fault::Truncated);
            }
            bytes = &mut bytes[length..];
            self.bytes += length as u64;
            self.check_rate()?;
        }
        Ok(())
    }

    fn check_rate(&self) -> Result<(), Fault> {
        let seconds = self.began.elapsed().as_secs();
        let is_slow = seconds > self.limits.stall.as_secs() && self.bytes < seconds * LEAST_RATE;
        if is_slow { Err(Fault::Idle) } else { Ok(()) }
    }
}
