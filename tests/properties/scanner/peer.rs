//! A receiver on a free port, and peers that send to it, well or badly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Told, channel};
use std::time::Duration;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use dicom_ul::association::client::{ClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
use self_prompt_sam::scanner::network::{Listen, Receiver};
use self_prompt_sam::scanner::{Intake, Limits, Spool};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const MR: &str = uids::MR_IMAGE_STORAGE;
const PATIENCE: Duration = Duration::from_secs(20);

/// A receiver with a spool of its own.
pub struct Scp {
    pub folder: TempDir,
    pub intake: Arc<Intake>,
    pub address: SocketAddr,
    /// Ids of series with new images.
    pub told: Told<String>,
    _network: Runtime,
}

impl Scp {
    pub fn new() -> Self {
        Self::with(Limits::default(), Listen::default())
    }

    pub fn with(limits: Limits, mut listen: Listen) -> Self {
        let folder = tempfile::tempdir().unwrap();
        listen.address.set_port(0);
        let (to_told, told) = channel();
        let spool = Spool::open(folder.path(), limits).unwrap();
        let intake = Arc::new(Intake::new(spool, move |id| drop(to_told.send(id))));
        let network = Runtime::new().unwrap();
        let receiver = network.block_on(Receiver::bind(&listen, intake.clone())).unwrap();
        let address = receiver.address().unwrap();
        network.spawn(receiver.run());
        Self { folder, intake, address, told, _network: network }
    }

    pub fn peer(&self) -> Peer {
        Peer::new(&self.options())
    }

    /// Proposes MR images and C-ECHO.
    pub fn options(&self) -> Proposal {
        Proposal { address: self.address, calling: "MODALITY".into(), called: "SPSAM".into() }
    }

    pub fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Number of images of all series that are not finished.
    pub fn images(&self) -> usize {
        let spool = self.intake.spool();
        spool.unfinished().iter().map(|id| spool.series(id).unwrap().images).sum()
    }

    /// The receiver is alive: a good image is stored.
    pub fn takes_an_image(&self) {
        let before = self.images();
        let mut peer = self.peer();
        assert_eq!(peer.store(&image("1.2.99", before), MR), 0);
        peer.release();
        assert_eq!(self.images(), before + 1);
    }
}

#[derive(Clone)]
pub struct Proposal {
    pub address: SocketAddr,
    pub calling: String,
    pub called: String,
}

impl Proposal {
    pub fn establish(&self) -> Result<ClientAssociation<TcpStream>, dicom_ul::association::Error> {
        ClientAssociationOptions::new()
            .calling_ae_title(&*self.calling)
            .called_ae_title(&*self.called)
            .read_timeout(PATIENCE)
            .with_presentation_context(MR, vec![uids::EXPLICIT_VR_LITTLE_ENDIAN])
            .with_presentation_context(uids::VERIFICATION, vec![uids::IMPLICIT_VR_LITTLE_ENDIAN])
            .establish(self.address)
    }
}

/// An association.
pub struct Peer {
    pub association: ClientAssociation<TcpStream>,
    message_id: u16,
}

impl Peer {
    pub fn new(proposal: &Proposal) -> Self {
        Self { association: proposal.establish().unwrap(), message_id: 100 }
    }

    /// Presentation context of a class.
    pub fn context(&self, class: &str) -> u8 {
        let contexts = self.association.presentation_contexts();
        contexts.iter().find(|context| context.abstract_syntax == class).unwrap().id
    }

    pub fn send(&mut self, context: u8, value_type: PDataValueType, data: &[u8], is_last: bool) {
        let value = PDataValue { presentation_context_id: context, value_type, is_last, data: data.to_vec() };
        self.association.send(&Pdu::PData { data: vec![value] }).unwrap();
    }

    /// The status of the next response, and the message that it answers.
    pub fn status(&mut self) -> (u16, u16) {
        match self.association.receive().unwrap() {
            Pdu::PData { data } => (number(&data[0].data, 0x0900), number(&data[0].data, 0x0120)),
            other => panic!("{}", other.short_description()),
        }
    }

    pub fn next_id(&mut self) -> u16 {
        self.message_id += 1;
        self.message_id
    }

    /// Sends a data set; the status of the response.
    pub fn store(&mut self, object: &InMemDicomObject, class: &str) -> u16 {
        let uid = object.element(tags::SOP_INSTANCE_UID).unwrap().to_str().unwrap().into_owned();
        self.store_bytes(&data_set(object), class, &uid)
    }

    pub fn store_bytes(&mut self, data: &[u8], class: &str, uid: &str) -> u16 {
        let (id, context) = (self.next_id(), self.context(MR));
        self.send(context, PDataValueType::Command, &store_command(id, class, uid), true);
        let count = data.chunks(16_000).count();
        for (index, chunk) in data.chunks(16_000).enumerate() {
            self.send(context, PDataValueType::Data, chunk, index + 1 == count);
        }
        let (status, answered) = self.status();
        assert_eq!(answered, id);
        status
    }

    pub fn echo(&mut self) -> u16 {
        let (id, context) = (self.next_id(), self.context(uids::VERIFICATION));
        let bytes = command(&[
            (0x0002, text(uids::VERIFICATION)),
            (0x0100, us(0x30)),
            (0x0110, us(id)),
            (0x0800, us(0x0101)),
        ]);
        self.send(context, PDataValueType::Command, &bytes, true);
        let (status, answered) = self.status();
        assert_eq!(answered, id);
        status
    }

    pub fn release(self) {
        self.association.release().unwrap();
    }
}

/// A command set of elements of group 0, in their order.
pub fn command(elements: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (element, value) in elements {
        bytes.extend([0, 0]);
        bytes.extend(element.to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(value);
    }
    let mut whole = vec![0, 0, 0, 0, 4, 0, 0, 0];
    whole.extend((bytes.len() as u32).to_le_bytes());
    whole.extend(bytes);
    whole
}

pub fn us(value: u16) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

pub fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

pub fn store_command(id: u16, class: &str, uid: &str) -> Vec<u8> {
    command(&[
        (0x0002, text(class)),
        (0x0100, us(1)),
        (0x0110, us(id)),
        (0x0700, us(0)),
        (0x0800, us(1)),
        (0x1000, text(uid)),
    ])
}

/// A number of a command set.
fn number(mut bytes: &[u8], element: u16) -> u16 {
    while bytes.len() >= 8 {
        let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        if bytes[2..4] == element.to_le_bytes() {
            return u16::from_le_bytes(bytes[8..10].try_into().unwrap());
        }
        bytes = &bytes[8 + length..];
    }
    panic!("no element {element:04x}");
}

pub const ROWS: u16 = 4;
pub const COLUMNS: u16 = 6;

/// Image `index` of an MR series; its pixels count from `100 * index`, with slope 2 and intercept -5.
pub fn image(series: &str, index: usize) -> InMemDicomObject {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| object.put(DataElement::new(tag, vr, value));
    let position = format!("1.5\\-2\\{}", index * 3);
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, MR),
        (tags::SOP_INSTANCE_UID, VR::UI, &format!("{series}.{}", index + 1)),
        (tags::MODALITY, VR::CS, "MR"),
        (tags::PATIENT_NAME, VR::PN, "Secret^Name"),
        (tags::PATIENT_ID, VR::LO, "SECRET-ID"),
        (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3"),
        (tags::SERIES_INSTANCE_UID, VR::UI, series),
        (tags::SERIES_NUMBER, VR::IS, "4"),
        (tags::IMAGE_POSITION_PATIENT, VR::DS, &position),
        (tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0"),
        (tags::PIXEL_SPACING, VR::DS, "0.5\\0.75"),
        (tags::RESCALE_SLOPE, VR::DS, "2"),
        (tags::RESCALE_INTERCEPT, VR::DS, "-5"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
    ] {
        put(tag, vr, PrimitiveValue::from(value));
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, ROWS),
        (tags::COLUMNS, COLUMNS),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, PrimitiveValue::from(value));
    }
    let pixels: Vec<u16> = (0..ROWS * COLUMNS).map(|pixel| pixel + 100 * index as u16).collect();
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into()));
    object
}

/// The pixels that are sent on for [`image`].
pub fn pixels(index: usize) -> Vec<f32> {
    (0..ROWS * COLUMNS).map(|pixel| f32::from(pixel + 100 * index as u16) * 2.0 - 5.0).collect()
}

fn with_meta(object: &InMemDicomObject) -> dicom_object::DefaultDicomObject {
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.clone().with_meta(meta).unwrap()
}

pub fn data_set(object: &InMemDicomObject) -> Vec<u8> {
    let mut bytes = Vec::new();
    with_meta(object).write_dataset(&mut bytes).unwrap();
    bytes
}

pub fn write_file(object: &InMemDicomObject, path: &Path) {
    with_meta(object).write_to_file(path).unwrap();
}

/// Everything that the other side sends until it closes the connection.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Writes to a connection that the other side may have closed.
pub fn push(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}
