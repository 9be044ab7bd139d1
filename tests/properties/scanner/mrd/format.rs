//! What is written is what is read, for any message; what is cut is noticed.

use proptest::prelude::*;
use self_prompt_sam::scanner::mrd::{
    Fault, HEADER_BYTES, ImageHeader, Message, Meta, PixelType, ReadLimits, Reader, ScanHeader, Skipped,
    encode_header,
};

use super::client::{header, text};

/// A message, and how it is read.
#[derive(Debug, Clone)]
enum Said {
    Config(Vec<u8>),
    Text(u16, String),
    Image(Box<ImageHeader>, String, Vec<u8>),
    Samples(u16, u16, u16),
    Waves(u16, u16),
    Close,
}

impl Said {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Config(name) => {
                let mut bytes = vec![1, 0];
                bytes.extend(name);
                bytes.resize(1026, 0);
                bytes
            }
            Self::Text(id, said) => text(*id, said),
            Self::Image(header, attributes, pixels) => {
                [&encode_header(header, attributes)[..], pixels].concat()
            }
            Self::Samples(samples, channels, dimensions) => {
                let mut bytes = vec![0; 2 + 340];
                bytes[..2].copy_from_slice(&1008u16.to_le_bytes());
                for (at, value) in [(34, samples), (38, channels), (176, dimensions)] {
                    bytes[2 + at..4 + at].copy_from_slice(&value.to_le_bytes());
                }
                let data =
                    usize::from(*samples) * (8 * usize::from(*channels) + 4 * usize::from(*dimensions));
                bytes.resize(bytes.len() + data, 4);
                bytes
            }
            Self::Waves(samples, channels) => {
                let mut bytes = vec![0; 2 + 40];
                bytes[..2].copy_from_slice(&1026u16.to_le_bytes());
                bytes[30..32].copy_from_slice(&samples.to_le_bytes());
                bytes[32..34].copy_from_slice(&channels.to_le_bytes());
                bytes.resize(bytes.len() + 4 * usize::from(*samples) * usize::from(*channels), 5);
                bytes
            }
            Self::Close => vec![4, 0],
        }
    }
}

fn said() -> impl Strategy<Value = Said> {
    let side = || 1u16..9;
    let image = ([side(), side(), 1u16..4], 1u16..3, 1u16..9, "[a-z]{0,30}").prop_map(
        |(matrix_size, channels, data_type, attributes)| {
            let header = ImageHeader { matrix_size, channels, data_type, ..header(0) };
            let length = header.layout().unwrap().bytes() as usize;
            Said::Image(Box::new(header), attributes, (0..length).map(|at| at as u8).collect())
        },
    );
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..1024).prop_map(Said::Config),
        (prop_oneof![Just(2u16), Just(3), Just(5)], ".{0,200}").prop_map(|(id, text)| Said::Text(id, text)),
        image,
        (0u16..40, 0u16..5, 0u16..4).prop_map(|(a, b, c)| Said::Samples(a, b, c)),
        (0u16..40, 0u16..5).prop_map(|(a, b)| Said::Waves(a, b)),
        Just(Said::Close),
    ]
}

/// Reads messages until an error: the messages with the pixels of images, and the error.
fn read(bytes: &[u8]) -> (Vec<(Message, Vec<u8>)>, Fault) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut reader = Reader::new(bytes, ReadLimits::default());
        let mut messages = Vec::new();
        loop {
            let message = match reader.next().await {
                Ok(message) => message,
                Err(fault) => return (messages, fault),
            };
            let mut pixels = Vec::new();
            if let Message::Image(..) = message {
                loop {
                    match reader.pixels().await {
                        Ok(chunk) if chunk.is_empty() => break,
                        Ok(chunk) => pixels.extend(chunk),
                        Err(fault) => return (messages, fault),
                    }
                }
            }
            messages.push((message, pixels));
        }
    })
}

fn is_same((message, pixels): &(Message, Vec<u8>), said: &Said) -> bool {
    match (message, said) {
        (Message::Config, Said::Config(_) | Said::Text(2, _)) => true,
        (Message::Header(text), Said::Text(3, said)) => text == said.as_bytes(),
        (Message::Text(text), Said::Text(5, said)) => text == said.as_bytes(),
        (Message::Close, Said::Close) => true,
        (Message::Skipped(Skipped::Acquisition), Said::Samples(..)) => true,
        (Message::Skipped(Skipped::Waveform), Said::Waves(..)) => true,
        (Message::Image(header, _, attributes), Said::Image(of, text, expected)) => {
            header == of && attributes == text.as_bytes() && pixels == expected
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn messages_are_read_as_they_were_written(all in proptest::collection::vec(said(), 0..8)) {
        let bytes: Vec<u8> = all.iter().flat_map(Said::bytes).collect();
        let (found, fault) = read(&bytes);
        prop_assert_eq!(found.len(), all.len(), "{}", fault);
        prop_assert!(found.iter().zip(&all).all(|(found, said)| is_same(found, said)));
        prop_assert!(matches!(fault, Fault::Left), "{}", fault);
    }

    /// Where a stream is cut decides: between messages the client has left, within one it is truncated.
    #[test]
    fn a_stream_that_is_cut_gives_the_messages_before(
        all in proptest::collection::vec(said(), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let parts: Vec<Vec<u8>> = all.iter().map(Said::bytes).collect();
        let bytes = parts.concat();
        let cut = cut.index(bytes.len());
        let mut end = 0;
        let whole = parts.iter().take_while(|part| { end += part.len(); end <= cut }).count();
        let is_between = parts[..whole].iter().map(Vec::len).sum::<usize>() == cut;
        let (found, fault) = read(&bytes[..cut]);
        prop_assert_eq!(found.len(), whole);
        match fault {
            Fault::Left => prop_assert!(is_between),
            Fault::Truncated => prop_assert!(!is_between),
            other => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_bytes_end_in_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..4000), id in 0usize..9) {
        let id = [1u16, 2, 3, 4, 5, 1008, 1022, 1026, 1009][id].to_le_bytes();
        let (_, fault) = read(&[&id[..], &bytes].concat());
        prop_assert!(!fault.to_string().contains('\n'));
        let _ = (Meta::parse(&bytes), ScanHeader::parse(&bytes));
    }

    #[test]
    fn any_header_survives(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES)) {
        let bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
        prop_assert_eq!(ImageHeader::parse(&bytes).to_bytes(), bytes.to_vec());
    }

    #[test]
    fn attributes_survive(entries in proptest::collection::btree_map("[A-Za-z_]{1,20}", "[ -~äß\n\t]{0,40}", 0..8)) {
        let mut meta = Meta::default();
        entries.iter().for_each(|(name, value)| meta.set(name, value.clone()));
        let found = Meta::parse(meta.to_xml().as_bytes()).unwrap();
        for (name, value) in &entries {
            prop_assert_eq!(found.get(name).unwrap_or_default(), value.as_str());
        }
        prop_assert_eq!(found.to_xml(), meta.to_xml());
    }
}

#[test]
fn attributes_that_are_none_are_named() {
    assert_eq!(Meta::parse(b"").unwrap(), Meta::default());
    assert_eq!(Meta::parse(b"\0").unwrap(), Meta::default());
    for (text, reason) in [
        (&b"\xff\xfe"[..], "no UTF-8"),
        (b"<ismrmrdMeta><meta>", "no XML"),
        (b"<other/>", "no ismrmrdMeta"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><ismrmrdMeta>&b;</ismrmrdMeta>", "no XML"),
    ] {
        assert!(Meta::parse(text).unwrap_err().contains(reason), "{reason}");
    }
    let deep = [b"<ismrmrdMeta>".repeat(200_000), b"</ismrmrdMeta>".repeat(200_000)].concat();
    assert!(Meta::parse(&deep).unwrap_err().contains("no XML"));
    let wide = [&b"<ismrmrdMeta>"[..], &b"<a/>".repeat(1 << 19), b"</ismrmrdMeta>"].concat();
    assert!(Meta::parse(&wide).unwrap_err().contains("no XML"));
}

/// As the reference library writes it (names of patients included, which are not read).
const SCAN: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <subjectInformation><patientName>Secret</patientName></subjectInformation>
  <studyInformation><studyInstanceUID>1.2.840.1</studyInstanceUID></studyInformation>
  <measurementInformation>
    <patientPosition>HFS</patientPosition>
    <frameOfReferenceUID>not a uid</frameOfReferenceUID>
  </measurementInformation>
  <encoding>
    <encodingLimits>
      <slice><minimum>0</minimum><maximum>9</maximum><center>5</center></slice>
      <phase><minimum>0</minimum><maximum>2</maximum><center>0</center></phase>
    </encodingLimits>
  </encoding>
  <sequenceParameters><TE>2.5</TE><TE>5</TE></sequenceParameters>
</ismrmrdHeader>"#;

#[test]
fn descriptions_of_scans_are_read() {
    let scan = ScanHeader::parse(SCAN.as_bytes()).unwrap();
    assert_eq!(scan.study_uid.as_deref(), Some("1.2.840.1"));
    assert_eq!((scan.frame_of_reference_uid, &*scan.patient_position), (None, "HFS"));
    let scan = ScanHeader::parse(SCAN.as_bytes()).unwrap();
    assert_eq!([scan.expected(1), scan.expected(4), scan.expected(9000)], [Some(30), Some(120), None]);
    assert_eq!([0, 1, 2].map(|contrast| scan.echo_time(contrast)), [2.5, 5.0, 3.0]);
    let same = SCAN.replace("<TE>5</TE>", "<TE>2.5</TE>");
    let same = ScanHeader::parse(same.as_bytes()).unwrap();
    assert_eq!([0, 1].map(|contrast| same.echo_time(contrast)), [1.0, 2.0], "echo times must distinguish");
    for dummy in ["Dummy XML header", "Dummy XML header\0", ""] {
        assert_eq!(ScanHeader::parse(dummy.as_bytes()), Ok(ScanHeader::default()));
    }
    for (text, reason) in [("<ismrmrdHeader>", "no XML"), ("<a/>", "no ismrmrdHeader"), ("scan", "no XML")] {
        assert!(ScanHeader::parse(text.as_bytes()).unwrap_err().contains(reason), "{text}");
    }
}

#[test]
fn pixels_of_every_type_are_kept() {
    let values = |kind: PixelType, bytes: &[u8]| {
        let header = ImageHeader { data_type: kind.number(), ..header(0) };
        header.layout().unwrap().values(bytes)
    };
    assert_eq!(values(PixelType::U16, &[0xff, 0xff, 1, 0]), [65535.0, 1.0]);
    assert_eq!(values(PixelType::I16, &[0xff, 0xff, 1, 0]), [-1.0, 1.0]);
    assert_eq!(values(PixelType::U32, &3_000_000_000u32.to_le_bytes()), [3e9]);
    assert_eq!(values(PixelType::I32, &(-70_000i32).to_le_bytes()), [-70_000.0]);
    assert_eq!(values(PixelType::F32, &0.1f32.to_le_bytes()), [0.1]);
    assert_eq!(values(PixelType::F64, &0.1f64.to_le_bytes()), [0.1]);
    let complex: Vec<u8> = [3.0f32, -4.0].iter().flat_map(|part| part.to_le_bytes()).collect();
    assert_eq!(values(PixelType::C64, &complex), [5.0]);
    let complex: Vec<u8> = [-6.0f64, 8.0].iter().flat_map(|part| part.to_le_bytes()).collect();
    assert_eq!(values(PixelType::C128, &complex), [10.0]);
    for data_type in [0, 9, 65535] {
        assert!(ImageHeader { data_type, ..header(0) }.layout().unwrap_err().contains("unknown"));
    }
}
