//! A connection with a client: what it sends, one message after the other, and then the wait for its masks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::tcp::OwnedReadHalf;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{Duration, sleep};

use super::access::MrdListen;
use super::answers::State;
use super::fault::Fault;
use super::header::{ImageHeader, Layout};
use super::link::{Connection, Outgoing};
use super::meta::Meta;
use super::reader::{Message, Reader, Skipped};
use super::returned::{encode_header, encode_text};
use super::scan::ScanHeader;
use super::series::{Images, describe};
use crate::dicom::{MrObject, Placement};
use crate::scanner::intake::{Intake, Sending};
use crate::scanner::spool::hashed;
use crate::scanner::{Incoming, Refusal, Status};

/// Largest image that is sent back as it came, bytes.
const LARGEST_RETURNED: u64 = 256 << 20;
/// Pause between two looks at what is still awaited.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The reading side of a connection.
pub(super) struct Session {
    reader: Reader<OwnedReadHalf>,
    connection: Arc<Connection>,
    intake: Arc<Intake>,
    sending: Sending,
    listen: Arc<MrdListen>,
    scan: ScanHeader,
    images: Images,
    /// What was said about the client's messages; each is said once.
    said: BTreeSet<String>,
    peer: String,
    /// Images that are stored, and those that cannot be used.
    pub stored: usize,
    pub refused: usize,
}

impl Session {
    pub fn new(
        reader: Reader<OwnedReadHalf>,
        connection: Arc<Connection>,
        intake: Arc<Intake>,
        listen: Arc<MrdListen>,
        peer: String,
    ) -> Self {
        Self {
            reader,
            connection,
            sending: Sending::new(intake.clone()),
            intake,
            listen,
            scan: ScanHeader::default(),
            images: Images::default(),
            said: BTreeSet::new(),
            peer,
            stored: 0,
            refused: 0,
        }
    }

    /// Takes messages until CLOSE.
    ///
    /// # Errors
    /// How the connection has ended otherwise.
    pub async fn receive(&mut self) -> Result<(), Fault> {
        loop {
            match self.reader.next().await? {
                Message::Config | Message::Text(_) => {}
                Message::Header(bytes) => match ScanHeader::parse(&bytes) {
                    Ok(scan) => self.scan = scan,
                    Err(reason) => self.say_once(format!("{reason}; images are taken without it")),
                },
                Message::Skipped(Skipped::Acquisition) => {
                    self.say_once(
                        "k-space data (message 1008) are skipped: only images are segmented".into(),
                    );
                }
                Message::Skipped(Skipped::Waveform) => {
                    self.say_once("waveforms (message 1026) are skipped".into());
                }
                Message::Image(header, layout, attributes) => {
                    self.on_image(*header, layout, attributes).await?;
                }
                Message::Close => return Ok(()),
            }
            if self.connection.is_full() {
                return Err(Fault::Unread);
            }
        }
    }

    fn say_once(&mut self, line: String) {
        if self.said.insert(line.clone()) {
            tracing::warn!("{}: {line}", self.peer);
            self.connection.push(Outgoing::Message(encode_text(&format!("WARNING  {line}"))));
        }
    }

    async fn on_image(
        &mut self,
        header: ImageHeader,
        layout: Layout,
        attributes: Vec<u8>,
    ) -> Result<(), Fault> {
        let meta = Meta::parse(&attributes).unwrap_or_else(|reason| {
            self.say_once(format!("{reason} are left out"));
            Meta::default()
        });
        let described = describe(&header, &layout, &self.scan, self.listen.position)
            .and_then(|placements| self.object(&header, &layout, placements));
        let object = match described {
            Ok(object) => object,
            Err(reason) => {
                self.refused += 1;
                self.say_once(format!("refused: {reason}"));
                return Ok(()); // the reader skips its pixels
            }
        };
        let mut original = self.original(&header, &layout, &attributes);
        let incoming = self.take_pixels(&object, &layout, original.as_mut()).await?;
        let series_id = hashed(&object.series_uid);
        self.connection.answers().expect(&series_id, header, meta);
        match self.store(incoming).await {
            Ok(()) => {
                self.sending.add(&series_id);
                self.stored += 1;
                if let Some(original) = original {
                    self.connection.push(Outgoing::Message(original));
                }
                Ok(())
            }
            Err(refusal) => {
                self.connection.answers().forget_last(&series_id);
                if refusal.status == Status::OutOfResources {
                    return Err(Fault::NoSpace(refusal));
                }
                self.refused += 1;
                self.say_once(format!("refused: {refusal}"));
                Ok(())
            }
        }
    }

    fn object(
        &mut self,
        header: &ImageHeader,
        layout: &Layout,
        placements: Vec<Placement>,
    ) -> Result<MrObject, String> {
        self.images.object(header, &self.scan, layout, placements)
    }

    /// The beginning of the message, if it is to be sent back.
    fn original(&mut self, header: &ImageHeader, layout: &Layout, attributes: &[u8]) -> Option<Vec<u8>> {
        if !self.listen.returns.originals {
            return None;
        } else if layout.bytes() > LARGEST_RETURNED {
            self.say_once("images of more than 256 MB are not sent back".into());
            return None;
        }
        let mut message = encode_header(header, "");
        message.truncate(message.len() - size_of::<u64>());
        message.extend((attributes.len() as u64).to_le_bytes());
        message.extend(attributes);
        Some(message)
    }

    /// Writes the pixels of an image into a file of the spool.
    async fn take_pixels(
        &mut self,
        object: &MrObject,
        layout: &Layout,
        mut original: Option<&mut Vec<u8>>,
    ) -> Result<Incoming, Fault> {
        let begin = || -> Result<Incoming, Refusal> {
            let head = object.before_pixels();
            let head = head.map_err(|reason| Refusal::new(Status::OutOfResources, reason))?;
            let mut incoming = self.intake.spool().begin()?;
            incoming.write(&head)?;
            Ok(incoming)
        };
        let mut incoming = block_in_place(begin).map_err(Fault::NoSpace)?;
        loop {
            let chunk = self.reader.pixels().await?;
            if chunk.is_empty() {
                return Ok(incoming);
            }
            block_in_place(|| incoming.write(&layout.pixel.convert(&chunk))).map_err(Fault::NoSpace)?;
            if let Some(original) = &mut original {
                original.extend(&chunk);
            }
        }
    }

    async fn store(&self, incoming: Incoming) -> Result<(), Refusal> {
        let intake = self.intake.clone();
        let stored = spawn_blocking(move || intake.store(incoming, None)).await;
        // A panic is logged where it happens.
        let failed = |_| Err(Refusal::new(Status::CannotUnderstand, "reading it failed"));
        stored.unwrap_or_else(failed).map(|_| ())
    }
}

/// Waits until the client has got all masks, for a bounded time. Gives a line for each series without all of its masks.
///
/// # Errors
/// [`Fault::Unread`].
pub(super) async fn wait_for_masks(
    connection: &Connection,
    listen: &MrdListen,
) -> Result<Vec<String>, Fault> {
    if !listen.returns.masks {
        return Ok(Vec::new());
    }
    let began = Instant::now();
    loop {
        if connection.is_full() {
            return Err(Fault::Unread);
        }
        let state = connection.answers().state(Instant::now());
        if let State::Complete(lines) = state {
            return Ok(lines);
        } else if began.elapsed() >= listen.wait {
            let (missing, seconds) = (connection.answers().missing(), listen.wait.as_secs());
            return Ok(vec![format!("the masks of {missing} images were not there {seconds} s after CLOSE")]);
        }
        tokio::select! {
            () = connection.changed.notified() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}
