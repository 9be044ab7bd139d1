//! Peers that break the protocol or send data sets that are traps: the receiver lives on, and takes the next image.

use std::fs;
use std::time::{Duration, Instant};

use dicom_ul::pdu::PDataValueType;
use proptest::prelude::*;
use self_prompt_sam::scanner::Limits;
use self_prompt_sam::scanner::network::Listen;

use super::peer::{MR, Scp, data_set, image, push, rest, store_command};

/// PDU types.
const ABORT: u8 = 7;

fn small() -> Scp {
    let limits =
        Limits { instance_bytes: 1 << 20, association_idle: Duration::from_secs(2), ..Limits::default() };
    Scp::with(limits, Listen::default())
}

/// Presentation context, type, data, and whether it is the last of its message.
type Fragment<'a> = (u8, PDataValueType, &'a [u8], bool);

#[test]
fn bytes_that_are_no_pdus_end_only_their_connection() {
    let scp = small();
    let garbage: Vec<u8> = (0..10_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let long_request = [&[1, 0, 0xff, 0xff, 0xff, 0xff][..], &[0; 4096]].concat();
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &garbage, &long_request, &[4, 0, 0, 0, 0, 0], &[5, 0, 0, 0, 0, 4]]
    {
        let mut stream = scp.raw();
        push(&mut stream, bytes);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        rest(&mut stream);
    }
    scp.takes_an_image();
}

#[test]
fn violations_within_an_association_are_aborted() {
    let scp = small();
    let store = store_command(1, MR, "1.2.4.1");
    let cases: &[(&str, &[u8])] = &[
        ("a PDU of 4 GB", &[4, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
        ("a PDU above the limit", &[4, 0, 0, 0x10, 0, 0, 0, 0]),
        ("a value longer than its PDU", &[4, 0, 0, 0, 0, 8, 0, 0, 0, 99, 1, 2, 0, 0]),
        ("a value of no length", &[4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 1, 2]),
        ("an unknown PDU", &[9, 0, 0, 0, 0, 2, 1, 1]),
        ("another request", &[6, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
    ];
    for (name, bytes) in cases {
        let mut peer = scp.peer();
        push(peer.association.inner_stream(), bytes);
        assert_eq!(rest(peer.association.inner_stream()).first(), Some(&ABORT), "{name}");
    }
    use PDataValueType::{Command, Data};
    let cases: &[(&str, &[Fragment])] = &[
        ("data without a command", &[(1, Data, b"x", true)]),
        ("a context that was not proposed", &[(9, Command, &store, true)]),
        ("a command that is none", &[(1, Command, b"garbage", true)]),
        ("a command in a data set", &[(1, Command, &store, true), (1, Command, &store, true)]),
        ("another context in a message", &[(1, Command, &store, true), (3, Data, b"x", true)]),
    ];
    for (name, values) in cases {
        let mut peer = scp.peer();
        for (context, value_type, data, is_last) in *values {
            peer.send(*context, value_type.clone(), data, *is_last);
        }
        assert_eq!(rest(peer.association.inner_stream()).first(), Some(&ABORT), "{name}");
    }
    let mut peer = scp.peer();
    let context = peer.context(MR);
    let command = store_command(1, MR, "1.2.4.1");
    peer.send(context, Command, &command, true);
    for _ in 0..300 {
        let value = dicom_ul::pdu::PDataValue {
            presentation_context_id: context,
            value_type: Data,
            is_last: false,
            data: vec![0; 16_000],
        };
        if peer.association.send(&dicom_ul::pdu::Pdu::PData { data: vec![value] }).is_err() {
            break;
        }
    }
    assert!(fs::read_dir(scp.folder.path().join("incoming")).unwrap().count() <= 1);
    drop(peer);
    scp.takes_an_image();
    assert!(wait_until(|| fs::read_dir(scp.folder.path().join("incoming")).unwrap().count() == 0));
}

fn wait_until(is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Data sets in Explicit VR Little Endian, and what is the matter with them.
fn traps() -> Vec<(&'static str, Vec<u8>)> {
    let good = data_set(&image("1.2.4", 0));
    let pixels = good.windows(4).position(|tag| tag == [0xe0, 0x7f, 0x10, 0]).unwrap();
    let head = &good[..pixels];
    let nested = [&b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"[..], b"\xfe\xff\0\xe0\xff\xff\xff\xff"].concat();
    let changed = |from: &[u8], to: &[u8]| {
        let mut bytes = good.clone();
        let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    vec![
        ("cut in the pixels", good[..good.len() - 5].to_vec()),
        ("cut in the header", head[..head.len() - 3].to_vec()),
        ("without pixels", head.to_vec()),
        ("4 GB of text", [&b"\x08\0\x05\0UT\0\0\xf0\xff\xff\xff"[..], &good].concat()),
        ("4 GB of pixels", [head, b"\xe0\x7f\x10\0OW\0\0\xf0\xff\xff\xff1234"].concat()),
        ("deep nesting", nested.repeat(40_000)),
        ("rows that lie", changed(b"\x28\0\x10\0US\x02\0\x04\0", b"\x28\0\x10\0US\x02\0\xff\x0f")),
        ("no rows", changed(b"\x28\0\x10\0US\x02\0\x04\0", b"\x28\0\x10\0US\x02\0\0\0")),
        ("24 bits stored", changed(b"\x28\0\x01\x01US\x02\0\x10\0", b"\x28\0\x01\x01US\x02\0\x18\0")),
        ("zeros", vec![0; 5000]),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn data_sets_that_are_traps_are_refused() {
    let scp = small();
    let mut peer = scp.peer();
    for (name, bytes) in traps() {
        let bytes = if bytes.is_empty() { vec![0; 2] } else { bytes };
        let status = peer.store_bytes(&bytes, MR, "1.2.4.1");
        assert!([0xc000, 0xa900].contains(&status), "{name}: {status:04x}");
    }
    peer.release();
    assert_eq!(scp.images(), 0);
    scp.takes_an_image();
}

/// Peers that send nothing, or next to nothing, are cut off, and hold no others up.
#[test]
fn slow_peers_are_cut_off() {
    let scp = small();
    let _silent: Vec<_> = (0..10).map(|_| scp.raw()).collect();
    let mut idle = scp.peer();
    let mut slow = scp.peer();
    let begun = Instant::now();
    scp.takes_an_image();
    assert!(begun.elapsed() < Duration::from_secs(2));
    let context = slow.context(MR);
    slow.send(context, PDataValueType::Command, &store_command(1, MR, "1.2.4.1"), true);
    let value = |data: u8| dicom_ul::pdu::PDataValue {
        presentation_context_id: context,
        value_type: PDataValueType::Data,
        is_last: false,
        data: vec![data],
    };
    let trickle = |n: u8| dicom_ul::pdu::Pdu::PData { data: vec![value(n)] };
    let is_cut = (0..100).any(|n| {
        std::thread::sleep(Duration::from_millis(100));
        slow.association.send(&trickle(n)).is_err()
    });
    assert!(is_cut);
    assert_eq!(rest(idle.association.inner_stream()).first(), Some(&ABORT));
}

#[test]
fn hundreds_of_tiny_associations_leave_nothing_behind() {
    let scp = small();
    for n in 0..300 {
        match n % 3 {
            0 => drop(scp.raw()),
            1 => drop(scp.peer()),
            _ => scp.peer().release(),
        }
    }
    scp.takes_an_image();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any values in any order, and any bytes behind them.
    #[test]
    fn no_conversation_stops_the_receiver(
        values in proptest::collection::vec((0u8..6, any::<bool>(), any::<bool>(), 0usize..400), 0..8),
        tail: Vec<u8>,
    ) {
        let scp = small();
        let mut peer = scp.peer();
        let (store, data) = (store_command(1, MR, "1.2.4.1"), data_set(&image("1.2.4", 0)));
        for (context, is_command, is_last, length) in values {
            let (value_type, bytes) = match is_command {
                true => (PDataValueType::Command, &store[..store.len().saturating_sub(length % 8)]),
                false => (PDataValueType::Data, &data[..length.min(data.len())]),
            };
            let value = dicom_ul::pdu::PDataValue {
                presentation_context_id: context, value_type, is_last, data: bytes.to_vec(),
            };
            if peer.association.send(&dicom_ul::pdu::Pdu::PData { data: vec![value] }).is_err() {
                break;
            }
        }
        push(peer.association.inner_stream(), &tail);
        drop(peer);
        scp.takes_an_image();
    }
}
