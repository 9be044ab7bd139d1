//! The sender: to the receiver of this library, and to peers that answer otherwise.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant as Clock};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use dicom_ul::association::server::{ServerAssociation, ServerAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
use self_prompt_sam::dicom::Images;
use self_prompt_sam::scanner::Limits;
use self_prompt_sam::scanner::network::Listen;
use self_prompt_sam::scanner::sender::{
    Association, Delivery, Destination, Instance, Outcome, SendError, StoreStatus, TimeLimits, contexts, send,
};

use super::peer::{Scp, command, image, pixels, text, us, write_file};

const LIMITS: TimeLimits = TimeLimits {
    connect: Duration::from_secs(20),
    take: Duration::from_secs(20),
    answer: Duration::from_secs(20),
};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn to(address: SocketAddr) -> Destination {
    Destination::new(&address.to_string(), "SPSAM", "MODALITY").unwrap()
}

fn in_memory(object: InMemDicomObject, transfer_syntax: &str) -> Instance {
    let meta = FileMetaTableBuilder::new().transfer_syntax(transfer_syntax);
    Instance::of_object("made", object.with_meta(meta).unwrap())
}

fn files(folder: &Path, count: usize) -> Vec<PathBuf> {
    let path = |index: usize| folder.join(format!("{index}.dcm"));
    (0..count).for_each(|index| write_file(&image("1.2.4", index), &path(index)));
    (0..count).map(path).collect()
}

/// A receiver of dicom-ul that does with its association what is asked.
fn peer<T: Send + 'static>(
    transfer_syntax: &'static str,
    longest_pdu: u32,
    serve: impl FnOnce(ServerAssociation<std::net::TcpStream>) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let options = ServerAssociationOptions::new()
            .accept_any()
            .max_pdu_length(longest_pdu)
            .with_abstract_syntax(uids::MR_IMAGE_STORAGE)
            .with_transfer_syntax(transfer_syntax);
        serve(options.establish(stream).unwrap())
    });
    (address, served)
}

/// A whole message: its command, and its data set.
fn receive(association: &mut ServerAssociation<std::net::TcpStream>) -> (Vec<u8>, Vec<u8>) {
    let (mut command, mut data) = (Vec::new(), Vec::new());
    loop {
        let Pdu::PData { data: values } = association.receive().unwrap() else { panic!("no message") };
        for value in values {
            match value.value_type {
                PDataValueType::Command => command.extend(value.data),
                PDataValueType::Data => {
                    data.extend(value.data);
                    if value.is_last {
                        return (command, data);
                    }
                }
            }
        }
    }
}

fn answer(association: &mut ServerAssociation<std::net::TcpStream>, id: u16, status: u16) {
    let bytes = command(&[
        (0x0100, us(0x8001)),
        (0x0120, us(id)),
        (0x0800, us(0x0101)),
        (0x0900, us(status)),
        (0x0902, text("as asked")),
    ]);
    // In fragments, as it may come.
    let count = bytes.chunks(11).count();
    for (index, chunk) in bytes.chunks(11).enumerate() {
        let value = PDataValue {
            presentation_context_id: 1,
            value_type: PDataValueType::Command,
            is_last: index + 1 == count,
            data: chunk.to_vec(),
        };
        association.send(&Pdu::PData { data: vec![value] }).unwrap();
    }
}

#[test]
fn files_and_objects_arrive_as_they_are() {
    let scp = Scp::new();
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 3);
    let mut instances: Vec<Instance> = files.iter().map(|path| Instance::of_file(path).unwrap()).collect();
    instances.push(in_memory(image("1.2.4", 3), uids::IMPLICIT_VR_LITTLE_ENDIAN));
    let Delivery { answers, error } = block_on(send(&to(scp.address), &LIMITS, &instances));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|answer| answer.status == StoreStatus::SUCCESS));
    let id = scp.intake.spool().unfinished().remove(0);
    for index in 0..4 {
        let file = scp.intake.spool().image(&id, index).unwrap();
        assert_eq!(Images::open(&file.path).unwrap().pixels(0).unwrap(), pixels(index));
    }
}

#[test]
fn pdus_are_no_longer_than_the_receiver_takes() {
    let (address, served) = peer(uids::EXPLICIT_VR_LITTLE_ENDIAN, 1018, |mut association| {
        let (command, data) = receive(&mut association); // fails if a PDU is longer
        answer(&mut association, 1, 0);
        (command, data)
    });
    let mut object = image("1.2.4", 0);
    let values: Vec<u16> = (0..20_000).collect();
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.into())));
    let instance = in_memory(object.clone(), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let Delivery { answers, error: _ } = block_on(send(&to(address), &LIMITS, &[instance]));
    assert_eq!(answers[0].status, StoreStatus::SUCCESS);
    let (_, data) = served.join().unwrap();
    assert_eq!(data, super::peer::data_set(&object));
}

#[test]
fn a_receiver_of_the_default_syntax_gets_it() {
    let (address, served) = peer(uids::IMPLICIT_VR_LITTLE_ENDIAN, 16_384, |mut association| {
        [1, 2].map(|id| {
            let data = receive(&mut association).1;
            answer(&mut association, id, 0);
            data
        })
    });
    let folder = tempfile::tempdir().unwrap();
    let file = Instance::of_file(&files(folder.path(), 1)[0]).unwrap();
    let object = in_memory(image("1.2.4", 0), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let Delivery { answers, error: _ } = block_on(send(&to(address), &LIMITS, &[file, object]));
    assert_eq!(answers.len(), 2);
    let [file, object] = served.join().unwrap();
    assert_eq!(file, object);
    // Group 8, element 16: its length follows at once, without a value representation.
    assert_eq!(file[..8], [8, 0, 0x16, 0, 26, 0, 0, 0]);
}

#[test]
fn every_status_is_told() {
    let (address, served) = peer(uids::EXPLICIT_VR_LITTLE_ENDIAN, 16_384, |mut association| {
        for (id, status) in [(1, 0xb000), (2, 0xa700), (3, 0)] {
            receive(&mut association);
            answer(&mut association, id, status);
        }
        assert!(matches!(association.receive().unwrap(), Pdu::ReleaseRQ));
        association.send(&Pdu::ReleaseRP).unwrap();
    });
    let instance = |index| in_memory(image("1.2.4", index), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let instances: Vec<Instance> = (0..3).map(instance).collect();
    let Delivery { answers, error } = block_on(send(&to(address), &LIMITS, &instances));
    assert!(error.is_none(), "{error:?}");
    let outcomes: Vec<Outcome> = answers.iter().map(|answer| answer.status.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Warning, Outcome::Failure, Outcome::Success]);
    assert_eq!(answers[1].to_string(), "out of resources (A700): as asked");
    served.join().unwrap();
}

#[test]
fn what_the_receiver_does_not_take_is_named_and_the_rest_is_sent() {
    let scp = Scp::new();
    let mut report = image("1.2.5", 0);
    report.put(DataElement::new(tags::SOP_CLASS_UID, VR::UI, uids::BASIC_TEXT_SR_STORAGE));
    let explicit = uids::EXPLICIT_VR_LITTLE_ENDIAN;
    let instances = [in_memory(report.clone(), explicit), in_memory(image("1.2.4", 0), explicit)];
    let Delivery { answers, error } = block_on(send(&to(scp.address), &LIMITS, &instances));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(answers[0].status, StoreStatus::CLASS_NOT_SUPPORTED);
    assert_eq!(answers[1].status, StoreStatus::SUCCESS);
    let Delivery { answers, error } = block_on(send(&to(scp.address), &LIMITS, &instances[..1]));
    assert!(answers.is_empty());
    assert!(matches!(error, Some(SendError::NothingAccepted { .. })), "{error:?}");
}

#[test]
fn titles_that_are_not_known_and_a_full_receiver_are_told_apart() {
    let listen = Listen { allowed_titles: vec!["MR1".into()], ..Listen::default() };
    let scp = Scp::with(Limits { associations: 1, ..Limits::default() }, listen);
    let instance = in_memory(image("1.2.4", 0), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let refused = |called, calling| {
        let to = Destination::new(&scp.address.to_string(), called, calling).unwrap();
        block_on(send(&to, &LIMITS, std::slice::from_ref(&instance))).error.unwrap()
    };
    let error = refused("OTHER", "MR1");
    assert!(error.to_string().contains("called AE title not recognized") && !error.is_transient(), "{error}");
    let error = refused("SPSAM", "MR2");
    assert!(
        error.to_string().contains("calling AE title not recognized") && !error.is_transient(),
        "{error}"
    );
    let to = Destination::new(&scp.address.to_string(), "SPSAM", "MR1").unwrap();
    block_on(async {
        let open = Association::open(&to, &LIMITS, &contexts([&instance])).await.unwrap();
        let Err(error) = Association::open(&to, &LIMITS, &contexts([&instance])).await else {
            panic!("a second association")
        };
        assert!(error.to_string().contains("local limit exceeded") && error.is_transient(), "{error}");
        open.release().await;
    });
}

#[test]
fn silence_aborts_and_lost_connections_end_in_time() {
    let instance = in_memory(image("1.2.4", 0), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let of = |address, limits: &TimeLimits| {
        block_on(send(&to(address), limits, std::slice::from_ref(&instance))).error.unwrap()
    };
    // It accepts a connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let impatient = TimeLimits { answer: Duration::from_millis(200), ..LIMITS };
    let began = Clock::now();
    let error = of(silent.local_addr().unwrap(), &impatient);
    assert!(matches!(error, SendError::TimedOut { .. }) && error.is_transient(), "{error}");
    assert!(began.elapsed() < LIMITS.answer);
    // It takes the instance and does not answer.
    let (address, served) = peer(uids::EXPLICIT_VR_LITTLE_ENDIAN, 16_384, |mut association| {
        receive(&mut association);
        association
    });
    let error = of(address, &impatient);
    assert!(matches!(error, SendError::TimedOut { .. }), "{error}");
    drop(served.join().unwrap());
    // It aborts instead of an answer.
    let (address, served) = peer(uids::EXPLICIT_VR_LITTLE_ENDIAN, 16_384, |mut association| {
        receive(&mut association);
        association.abort().unwrap();
    });
    let error = of(address, &LIMITS);
    assert!(matches!(error, SendError::Aborted { .. }) && error.is_transient(), "{error}");
    served.join().unwrap();
    // It answers another message.
    let (address, served) = peer(uids::EXPLICIT_VR_LITTLE_ENDIAN, 16_384, |mut association| {
        receive(&mut association);
        answer(&mut association, 9, 0);
    });
    let error = of(address, &LIMITS);
    assert!(matches!(error, SendError::Broken { .. }) && !error.is_transient(), "{error}");
    served.join().unwrap();
    // Nobody is there.
    drop(silent);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = of(free, &LIMITS);
    assert!(matches!(error, SendError::Connect { .. }) && error.is_transient(), "{error}");
}

#[test]
fn an_instance_that_is_broken_off_or_cancelled_is_not_stored() {
    let scp = Scp::new();
    let explicit = uids::EXPLICIT_VR_LITTLE_ENDIAN;
    let [first, second] = [0, 1].map(|index| in_memory(image("1.2.4", index), explicit));
    block_on(async {
        let open =
            || async { Association::open(&to(scp.address), &LIMITS, &contexts([&first])).await.unwrap() };
        let mut association = open().await;
        assert_eq!(association.store(&first).await.unwrap().status, StoreStatus::SUCCESS);
        association.break_off(&second).await.unwrap();
        assert_eq!(scp.images(), 1);
        open().await.abort().await;
        let mut association = open().await;
        assert_eq!(association.store(&second).await.unwrap().status, StoreStatus::SUCCESS);
        association.release().await;
    });
    assert_eq!(scp.images(), 2);
}

#[test]
fn files_that_cannot_be_sent_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dcm");
    let refused = || Instance::of_file(&path).unwrap_err().to_string();
    assert!(refused().contains("a.dcm"));
    std::fs::write(&path, b"no DICOM").unwrap();
    assert!(refused().contains("no DICM prefix"), "{}", refused());
    std::fs::write(&path, [&[0; 128][..], b"DICM"].concat()).unwrap();
    assert!(refused().contains("no transfer syntax"), "{}", refused());
    write_file(&image("1.2.4", 0), &path);
    let whole = std::fs::read(&path).unwrap();
    // A file that is cut after it was opened ends the association, and is named.
    let scp = Scp::new();
    let instance = Instance::of_file(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 8]).unwrap();
    let Delivery { answers, error } = block_on(send(&to(scp.address), &LIMITS, &[instance]));
    let error = error.unwrap().to_string();
    assert!(answers.is_empty() && error.contains("a.dcm"), "{error}");
    assert_eq!(scp.images(), 0);
}

/// The connection is closed at once when the future is dropped.
#[test]
fn dropping_cancels() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let instance = in_memory(image("1.2.4", 0), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    block_on(async {
        let (to, instances) = (to(address), [instance]);
        let sending = send(&to, &LIMITS, &instances);
        assert!(tokio::time::timeout(Duration::from_millis(200), sending).await.is_err());
    });
    let request = accepted.join().unwrap();
    assert_eq!(request[0], 1, "an association request");
}
