//! A server in this process, and a client that says anything.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self_prompt_sam::dicom::Images;
use self_prompt_sam::message::live::Mask;
use self_prompt_sam::scanner::mrd::{
    HEADER_BYTES, ImageHeader, MaskLink, Meta, MrdListen, MrdServer, encode_header,
};
use self_prompt_sam::scanner::{Intake, Limits, Spool};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const COLUMNS: u16 = 6;
pub const ROWS: u16 = 4;

/// The server with its spool.
pub struct Server {
    pub intake: Arc<Intake>,
    pub link: MaskLink,
    /// Series whose client has sent CLOSE.
    pub ended: Arc<Mutex<Vec<String>>>,
    address: std::net::SocketAddr,
    _runtime: Runtime,
    _folder: TempDir,
}

impl Server {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A server that cuts off silent clients after 2 s.
    pub fn with(change: impl FnOnce(&mut MrdListen)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            association_idle: Duration::from_secs(2),
            instance_bytes: 64 << 20,
            ..Limits::default()
        };
        let spool = Spool::open(&folder.path().join("spool"), limits).unwrap();
        let intake = Arc::new(Intake::new(spool, |_| {}));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut listen = MrdListen::new("127.0.0.1:0".parse().unwrap());
        change(&mut listen);
        let ended: Arc<Mutex<Vec<String>>> = Arc::default();
        let to = ended.clone();
        let server = runtime
            .block_on(MrdServer::bind(listen, intake.clone(), move |id| to.lock().unwrap().push(id)))
            .unwrap();
        let (address, link) = (server.address().unwrap(), server.link());
        runtime.spawn(server.run());
        Self { intake, link, ended, address, _runtime: runtime, _folder: folder }
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(stream)
    }

    /// The series in the spool with their numbers of images.
    pub fn series(&self) -> Vec<(String, usize)> {
        let spool = self.intake.spool();
        spool.unfinished().into_iter().map(|id| (id.clone(), spool.series(&id).unwrap().images)).collect()
    }

    /// The image of a series in the order of arrival, with its pixels.
    pub fn image(&self, series_id: &str, index: usize) -> (self_prompt_sam::dicom::Placement, Vec<f32>) {
        let file = self.intake.spool().image(series_id, index).unwrap();
        let mut images = Images::open(&file.path).unwrap();
        (images.placement(file.image).unwrap(), images.pixels(file.image).unwrap())
    }

    /// A mask of the writer whose pixels have this class.
    pub fn answer(&self, series_id: &str, index: usize, pixels: Vec<u8>, provisional: bool) {
        let mask = Mask {
            series_id: series_id.into(),
            revision: 0,
            index: index as i64,
            provisional,
            classes: 4,
            shape: [1, pixels.len() as i64],
            received_ns: 0,
            sent_ns: 0,
        };
        if self.link.wants(&mask) {
            self.link.on_mask(&mask, pixels);
        }
    }

    /// The next client is served as it should be.
    pub fn serves(&self) {
        let before: Vec<String> = self.series().into_iter().map(|(id, _)| id).collect();
        let mut client = self.connect();
        client.begin();
        for index in 0..3 {
            client.send(&image(index, &pixels(index)));
        }
        client.close();
        let is_new = |(id, images): &(String, usize)| !before.contains(id) && *images == 3;
        assert!(wait_until(|| self.series().iter().any(is_new)), "{:?}", self.series());
        let (id, _) = self.series().into_iter().find(is_new).unwrap();
        assert!(wait_until(|| self.ended.lock().unwrap().contains(&id)));
        for index in 0..3 {
            let expected: Vec<f32> = pixels(index).iter().map(|&value| f32::from(value)).collect();
            assert_eq!(self.image(&id, index).1, expected);
            self.answer(&id, index, vec![index as u8; usize::from(ROWS * COLUMNS)], false);
        }
        let answers = client.answers();
        assert_eq!(answers.len(), 3);
        for (index, answer) in answers.iter().enumerate() {
            assert_eq!(answer.classes, vec![index as u16; usize::from(ROWS * COLUMNS)]);
        }
    }
}

/// Waits for something, at most 10 s.
pub fn wait_until(is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// An image that came back.
pub struct Returned {
    pub header: ImageHeader,
    pub meta: Meta,
    pub classes: Vec<u16>,
}

/// A client.
pub struct Client(pub TcpStream);

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes); // the server may have left
    }

    /// Configuration and a header that says nothing.
    pub fn begin(&mut self) {
        let mut config = vec![1, 0];
        config.extend(b"openrecon");
        config.resize(2 + 1024, 0);
        self.send(&config);
        self.send(&text(3, "Dummy XML header"));
    }

    pub fn close(&mut self) {
        self.send(&[4, 0]);
    }

    pub fn leave(self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Everything until CLOSE or the end of the connection: images, and lines of text; whether CLOSE has come.
    pub fn everything(&mut self) -> (Vec<Returned>, Vec<String>, bool) {
        let (mut images, mut lines) = (Vec::new(), Vec::new());
        while let Some(id) = self.bytes::<2>() {
            match u16::from_le_bytes(id) {
                4 => return (images, lines, true),
                5 => {
                    let length = u32::from_le_bytes(self.bytes().unwrap());
                    let text = String::from_utf8(self.take(length as usize)).unwrap();
                    lines.push(text.trim_end_matches('\0').to_owned());
                }
                1022 => {
                    let header = ImageHeader::parse(&self.bytes::<HEADER_BYTES>().unwrap());
                    let length = u64::from_le_bytes(self.bytes().unwrap());
                    assert_eq!(length, u64::from(header.attribute_string_len));
                    let meta = Meta::parse(&self.take(length as usize)).unwrap();
                    let pixels = self.take(header.layout().unwrap().bytes() as usize);
                    let classes =
                        pixels.chunks_exact(2).map(|pixel| u16::from_le_bytes([pixel[0], pixel[1]]));
                    images.push(Returned { header, meta, classes: classes.collect() });
                }
                other => panic!("message {other}"),
            }
        }
        (images, lines, false)
    }

    /// The images until CLOSE, without any text.
    pub fn answers(&mut self) -> Vec<Returned> {
        let (images, lines, is_closed) = self.everything();
        assert!(is_closed, "no CLOSE");
        assert_eq!(lines, Vec::<String>::new());
        images
    }
}

pub fn text(id: u16, text: &str) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// Header of an axial image.
pub fn header(index: usize) -> ImageHeader {
    ImageHeader {
        version: 1,
        data_type: 1,
        measurement_uid: 77,
        matrix_size: [COLUMNS, ROWS, 1],
        field_of_view: [12.0, 4.0, 3.0],
        channels: 1,
        position: [1.0, 2.0, 3.0 * index as f32],
        read_dir: [1.0, 0.0, 0.0],
        phase_dir: [0.0, 1.0, 0.0],
        slice_dir: [0.0, 0.0, 1.0],
        slice: index as u16,
        image_type: 1,
        image_index: index as u16 + 1,
        image_series_index: 3,
        user_int: [1, -2, 3, 4, 5, 6, 7, 8],
        ..ImageHeader::default()
    }
}

pub fn pixels(index: usize) -> Vec<u16> {
    (0..ROWS * COLUMNS).map(|pixel| 1000 * index as u16 + pixel).collect()
}

pub fn message(header: &ImageHeader, attributes: &str, pixels: &[u8]) -> Vec<u8> {
    [&encode_header(header, attributes)[..], pixels].concat()
}

pub fn bytes(pixels: &[u16]) -> Vec<u8> {
    pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect()
}

pub fn image(index: usize, pixels: &[u16]) -> Vec<u8> {
    message(&header(index), "", &bytes(pixels))
}
