//! Readers of files and messages on damaged inputs: they return an error, and never panic, hang or use unlimited
//! memory. The fuzz targets (`fuzz/`) run the same readers for longer; tests of their findings are at the end.

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_ul::pdu::{
    AssociationRQ, PDataValue, PDataValueType, Pdu, PresentationContextProposed, UserVariableItem,
};
use dicom_ul::write_pdu;
use proptest::prelude::*;
use proptest::sample::Index;
use self_prompt_sam::bundle::Bundle;
use self_prompt_sam::dicom::TRANSFER_SYNTAXES;

use crate::parsers;
use crate::samples;
use crate::scanner::peer::{MR, command, data_set, image, store_command, text, us, write_file};

/// One change to the bytes of a valid input.
#[derive(Debug, Clone)]
enum Damage {
    /// Replaces the byte at this place.
    Byte(Index, u8),
    /// Writes a little-endian number of this many bytes, from values that often cause faults.
    Number(Index, usize, i64),
    Cut(Index),
    Remove(Index, usize),
    /// Copies the bytes at one place to another.
    Repeat(Index, Index, usize),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let extreme = prop_oneof![
        Just(0),
        Just(-1),
        Just(i64::MAX),
        Just(i64::MIN),
        Just(i64::from(i32::MAX)),
        Just(i64::from(i16::MAX)),
        Just(f32::NAN.to_bits().into()),
        Just(f32::INFINITY.to_bits().into()),
        Just(1e-30f32.to_bits().into()),
        Just(1e30f32.to_bits().into()),
        any::<i64>(),
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        4 => (any::<Index>(), prop::sample::select(vec![2usize, 4, 8]), extreme)
            .prop_map(|(at, width, value)| Damage::Number(at, width, value)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 1usize..40).prop_map(|(at, length)| Damage::Remove(at, length)),
        1 => (any::<Index>(), any::<Index>(), 1usize..40)
            .prop_map(|(from, to, length)| Damage::Repeat(from, to, length)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len();
        let place = |index: &Index| index.index(length + 1);
        match damage {
            Damage::Byte(at, byte) => {
                if let Some(there) = bytes.get_mut(place(at)) {
                    *there = *byte;
                }
            }
            Damage::Number(at, width, value) => {
                let at = place(at) / 2 * 2;
                if let Some(there) = bytes.get_mut(at..at + width) {
                    there.copy_from_slice(&value.to_le_bytes()[..*width]);
                }
            }
            Damage::Cut(at) => bytes.truncate(place(at)),
            Damage::Remove(at, count) => {
                let at = place(at);
                bytes.drain(at..(at + count).min(length));
            }
            Damage::Repeat(from, to, count) => {
                let (from, to) = (place(from), place(to));
                let part = bytes[from..(from + count).min(length)].to_vec();
                bytes.splice(to..to, part);
            }
            Damage::Insert(at, part) => {
                let at = place(at);
                bytes.splice(at..at, part.iter().copied());
            }
        }
    }
    bytes
}

fn of(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(samples), prop::collection::vec(damage(), 0..5))
        .prop_map(|(sample, damages)| damaged(sample, &damages))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_volumes_are_read_or_refused(bytes in of(samples::volumes())) {
        parsers::volume(&bytes);
    }

    #[test]
    fn damaged_checkpoints_are_read_or_refused(bytes in of(samples::checkpoints())) {
        parsers::checkpoint(&bytes);
    }

    #[test]
    fn damaged_bundles_are_read_or_refused(bytes in of(samples::bundles())) {
        parsers::bundle(&bytes);
    }

    #[test]
    fn damaged_control_messages_are_read_or_refused(bytes in of(samples::controls())) {
        parsers::control(&bytes);
    }

    #[test]
    fn damaged_mrd_scans_are_read_or_refused(bytes in of(samples::mrds())) {
        parsers::mrd(&bytes);
    }

    #[test]
    fn damaged_dicom_files_are_read_or_refused(bytes in of(dicoms())) {
        parsers::dicom(&bytes);
    }

    #[test]
    fn damaged_messages_are_joined_or_refused(bytes in of(samples::wires())) {
        parsers::wire(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_associations_are_ended_one_way_or_the_other(bytes in of(associations())) {
        parsers::association(&bytes);
    }
}

/// A byte that says what follows, and a file or a data set in Explicit VR Little Endian.
fn dicoms() -> Vec<Vec<u8>> {
    let explicit = TRANSFER_SYNTAXES.iter().position(|uid| *uid == uids::EXPLICIT_VR_LITTLE_ENDIAN).unwrap();
    let plain = image("1.2.4", 0);
    let mut several = plain.clone(); // a sequence, of items that are read
    let code = InMemDicomObject::from_element_iter([DataElement::new(tags::CODE_VALUE, VR::SH, "113091")]);
    several.put(DataElement::new(tags::DERIVATION_CODE_SEQUENCE, VR::SQ, DataSetSequence::from(vec![code])));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.dcm");
    write_file(&plain, &file);
    let mut samples = vec![[&[0][..], &std::fs::read(&file).unwrap()].concat()];
    for object in [plain, several] {
        samples.push([&[1 + explicit as u8][..], &data_set(&object)].concat());
    }
    samples
}

/// Associations that are requested, used and released: C-ECHO, and C-STORE in two fragments.
fn associations() -> Vec<Vec<u8>> {
    let pdus = |values: Vec<PDataValue>| {
        let mut bytes = Vec::new();
        let context = |id, class: &str, syntax: &str| PresentationContextProposed {
            id,
            abstract_syntax: class.into(),
            transfer_syntaxes: vec![syntax.into()],
        };
        let request = Pdu::AssociationRQ(AssociationRQ {
            protocol_version: 1,
            called_ae_title: "SPSAM".into(),
            calling_ae_title: "MODALITY".into(),
            application_context_name: "1.2.840.10008.3.1.1.1".into(),
            presentation_contexts: vec![
                context(1, uids::VERIFICATION, uids::IMPLICIT_VR_LITTLE_ENDIAN),
                context(3, MR, uids::EXPLICIT_VR_LITTLE_ENDIAN),
            ],
            user_variables: vec![
                UserVariableItem::MaxLength(16384),
                UserVariableItem::ImplementationClassUID("1.2.3".into()),
            ],
        });
        write_pdu(&mut bytes, &request).unwrap();
        for value in values {
            write_pdu(&mut bytes, &Pdu::PData { data: vec![value] }).unwrap();
        }
        write_pdu(&mut bytes, &Pdu::ReleaseRQ).unwrap();
        bytes
    };
    let value = |context, value_type, data: &[u8], is_last| PDataValue {
        presentation_context_id: context,
        value_type,
        is_last,
        data: data.to_vec(),
    };
    let echo = command(&[
        (0x0002, text(uids::VERIFICATION)),
        (0x0100, us(0x30)),
        (0x0110, us(7)),
        (0x0800, us(0x0101)),
    ]);
    let data = data_set(&image("1.2.4", 0));
    let (first, second) = data.split_at(data.len() / 2);
    vec![
        pdus(vec![value(1, PDataValueType::Command, &echo, true)]),
        pdus(vec![
            value(3, PDataValueType::Command, &store_command(8, MR, "1.2.4.1"), true),
            value(3, PDataValueType::Data, first, false),
            value(3, PDataValueType::Data, second, true),
        ]),
    ]
}

/// Start inputs of the fuzz campaigns: `SPSAM_WRITE_CORPUS=fuzz/corpus cargo test --release --test properties --
/// corpus`.
#[test]
fn the_corpus_is_made_of_inputs_that_are_read() {
    type Reader = (&'static str, Vec<Vec<u8>>, fn(&[u8]) -> bool);
    let readers: [Reader; 8] = [
        ("volume", samples::volumes(), parsers::volume),
        ("checkpoint", samples::checkpoints(), parsers::checkpoint),
        ("bundle", samples::bundles(), parsers::bundle),
        ("control", samples::controls(), parsers::control),
        ("wire", samples::wires(), parsers::wire),
        ("mrd", samples::mrds(), parsers::mrd),
        ("dicom", dicoms(), parsers::dicom),
        ("association", associations(), parsers::association),
    ];
    for (name, inputs, read) in readers {
        for (index, bytes) in inputs.iter().enumerate() {
            assert!(read(bytes), "{name} {index} is not read");
            if let Some(corpus) = std::env::var_os("SPSAM_WRITE_CORPUS") {
                let folder = std::path::Path::new(&corpus).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("sample-{index}")), bytes).unwrap();
            }
        }
    }
}

/// `height · width · classes` was computed with numbers that wrap, so that these passed for small.
#[test]
fn sizes_beyond_all_bounds_are_refused_by_name() {
    let good = String::from_utf8(samples::bundles().remove(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.yml");
    for (there, wrong, name) in [
        ("    - 64\n    - 64\n", "    - 4294967296\n    - 4294967296\n", "patch.plane"),
        ("  depth: 8\n", "  depth: 5000\n", "patch.depth"),
        ("  image_size: 64\n", "  image_size: 1099511627776\n", "network.image_size"),
        (
            "normalisation: z_score_region\n",
            "normalisation: { window: { low: 3.0, high: 1.0 } }\n",
            "normalisation",
        ),
        (
            "normalisation: z_score_region\n",
            "normalisation: { percentile: { low: .nan, high: 1.0 } }\n",
            "normalisation",
        ),
    ] {
        assert!(good.contains(there), "{there}");
        std::fs::write(&file, good.replace(there, wrong)).unwrap();
        let error = Bundle::open(&file).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("model.yml"), "{wrong}: {error}");
    }
}

/// Recursion over the values of these pickles ends a program by its stack: the first holds itself, in the others tuples are
/// nested. Found by the fuzz target `checkpoint`.
#[test]
fn pickles_that_hold_themselves_or_are_nested_without_end_do_not_end_the_program() {
    let itself = b"\x80\x02}]q\x00h\x00aK\x01s.".to_vec();
    let nested =
        |place: &[u8], end: &[u8]| [b"\x80\x02}", place, b"]", &b"\x85".repeat(200_000), end, b"s."].concat();
    for pickle in [itself, nested(b"X\x01\0\0\0a", b""), nested(b"", b"K\x01")] {
        parsers::checkpoint(&[&[1u8][..], &pickle].concat());
    }
}
