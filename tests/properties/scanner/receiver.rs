//! What good peers experience.

use std::fs;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_ul::association::Error;
use dicom_ul::pdu::{AssociationRJServiceUserReason, AssociationRJSource, PDataValue, PDataValueType, Pdu};
use self_prompt_sam::dicom::Images;
use self_prompt_sam::scanner::Limits;
use self_prompt_sam::scanner::network::Listen;

use super::peer::{MR, Peer, Scp, command, data_set, image, pixels, store_command, us};

#[test]
fn an_image_is_on_disk_when_its_peer_is_told_so() {
    let scp = Scp::new();
    let mut peer = scp.peer();
    assert_eq!(peer.echo(), 0);
    for index in 0..3 {
        assert_eq!(peer.store(&image("1.2.4", index), MR), 0);
        let series_id = scp.told.try_recv().unwrap();
        let file = scp.intake.spool().image(&series_id, index).unwrap();
        let mut images = Images::open(&file.path).unwrap();
        assert_eq!(images.pixels(0).unwrap(), pixels(index));
        assert_eq!(images.placement(0).unwrap().position, [1.5, -2.0, 3.0 * index as f64]);
    }
    assert_eq!(peer.echo(), 0);
    let series_id = scp.intake.spool().unfinished().remove(0);
    assert!(scp.intake.is_being_sent(&series_id));
    peer.release();
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        if !scp.intake.is_being_sent(&series_id) {
            break;
        }
    }
    assert!(!scp.intake.is_being_sent(&series_id));
    let names = names_below(scp.folder.path());
    assert!(
        names.iter().all(|name| !name.to_lowercase().contains("secret") && !name.contains("1.2.4")),
        "{names:?}"
    );
}

fn names_below(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        if path.is_dir() {
            names.extend(names_below(&path));
        }
    }
    names
}

#[test]
fn the_same_instance_counts_once() {
    let scp = Scp::new();
    let (mut one, mut two) = (scp.peer(), scp.peer());
    for peer in [&mut one, &mut two] {
        assert_eq!(peer.store(&image("1.2.4", 0), MR), 0);
    }
    assert_eq!(scp.images(), 1);
    assert_eq!(scp.told.try_iter().count(), 1);
}

#[test]
fn commands_and_data_may_be_cut_anywhere_and_share_pdus() {
    let scp = Scp::new();
    let mut peer = scp.peer();
    let context = peer.context(MR);
    let (bytes, data) = (store_command(7, MR, "1.2.4.1"), data_set(&image("1.2.4", 0)));
    for (index, byte) in bytes.iter().enumerate() {
        peer.send(context, PDataValueType::Command, &[*byte], index + 1 == bytes.len());
    }
    for chunk in data.chunks(9) {
        peer.send(context, PDataValueType::Data, chunk, false);
    }
    peer.send(context, PDataValueType::Data, &[], true);
    assert_eq!(peer.status(), (0, 7));
    let value = |value_type, data: &[u8], is_last| PDataValue {
        presentation_context_id: context,
        value_type,
        is_last,
        data: data.to_vec(),
    };
    let (bytes, data) = (store_command(8, MR, "1.2.4.2"), data_set(&image("1.2.4", 1)));
    let values = vec![
        value(PDataValueType::Command, &bytes[..11], false),
        value(PDataValueType::Command, &bytes[11..], true),
        value(PDataValueType::Data, &data[..100], false),
        value(PDataValueType::Data, &data[100..], true),
    ];
    peer.association.send(&Pdu::PData { data: values }).unwrap();
    assert_eq!(peer.status(), (0, 8));
    assert_eq!(scp.images(), 2);
}

#[test]
fn titles_decide_who_may_send() {
    let listen = Listen { allowed_titles: vec!["MODALITY".into()], ..Listen::default() };
    let scp = Scp::with(Limits::default(), listen);
    let rejection = |calling: &str, called: &str| {
        let mut proposal = scp.options();
        (proposal.calling, proposal.called) = (calling.into(), called.into());
        match proposal.establish() {
            Err(Error::Rejected { association_rj, .. }) => association_rj.source,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    use AssociationRJServiceUserReason::{CalledAETitleNotRecognized, CallingAETitleNotRecognized};
    assert_eq!(rejection("OTHER", "SPSAM"), AssociationRJSource::ServiceUser(CallingAETitleNotRecognized));
    assert_eq!(rejection("MODALITY", "ELSE"), AssociationRJSource::ServiceUser(CalledAETitleNotRecognized));
    scp.takes_an_image();
}

/// Each request, and the status of the standard for it.
#[test]
fn what_cannot_be_stored_gets_the_status_of_the_standard() {
    let scp = Scp::with(Limits { instance_bytes: 100_000, ..Limits::default() }, Listen::default());
    let mut peer = scp.peer();
    let good = image("1.2.4", 0);
    let without = |tag| {
        let mut object = good.clone();
        object.remove_element(tag);
        object
    };
    assert_eq!(peer.store(&good, uids::CT_IMAGE_STORAGE), 0x0122);
    assert_eq!(peer.store_bytes(&data_set(&good), MR, "1.2.4.77"), 0xa900);
    assert_eq!(peer.store(&without(tags::ROWS), MR), 0xc000);
    assert_eq!(peer.store(&without(tags::IMAGE_POSITION_PATIENT), MR), 0xc000);
    assert_eq!(peer.store(&without(tags::SERIES_INSTANCE_UID), MR), 0xc000);
    assert_eq!(peer.store(&without(tags::PIXEL_DATA), MR), 0xc000);
    let mut large = good.clone();
    large.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(vec![0; 60_000].into())));
    assert_eq!(peer.store(&large, MR), 0xa700);
    let mut wide = good.clone();
    for tag in [tags::ROWS, tags::COLUMNS] {
        wide.put(DataElement::new(tag, VR::US, PrimitiveValue::from(5000u16)));
    }
    assert_eq!(peer.store(&wide, MR), 0xc000);
    assert_eq!(peer.store_bytes(b"no data set at all", MR, "1.2.4.1"), 0xc000);
    let (id, context) = (peer.next_id(), peer.context(MR));
    let find = command(&[(0x0100, us(0x20)), (0x0110, us(id)), (0x0800, us(1))]);
    peer.send(context, PDataValueType::Command, &find, true);
    peer.send(context, PDataValueType::Data, b"anything", true);
    assert_eq!(peer.status(), (0x0211, id));
    let cancel = command(&[(0x0100, us(0x0fff)), (0x0120, us(3)), (0x0800, us(0x0101))]);
    peer.send(context, PDataValueType::Command, &cancel, true);
    assert_eq!(scp.images(), 0);
    assert_eq!(peer.store(&good, MR), 0, "the same association goes on");
    assert_eq!(scp.images(), 1);
}

#[test]
fn associations_beyond_the_limit_are_rejected_until_one_ends() {
    let scp = Scp::with(Limits { associations: 2, ..Limits::default() }, Listen::default());
    let (one, _two) = (scp.peer(), scp.peer());
    assert!(matches!(scp.options().establish(), Err(Error::Rejected { .. })));
    one.release();
    let again = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        scp.options().establish().ok()
    });
    assert!(again.is_some());
}

#[test]
fn two_peers_at_once_fill_their_own_series() {
    let scp = Scp::new();
    std::thread::scope(|scope| {
        for series in ["1.2.5", "1.2.6"] {
            let proposal = scp.options();
            scope.spawn(move || {
                let mut peer = Peer::new(&proposal);
                for index in 0..20 {
                    assert_eq!(peer.store(&image(series, index), MR), 0);
                }
                peer.release();
            });
        }
    });
    let spool = scp.intake.spool();
    let counts: Vec<usize> = spool.unfinished().iter().map(|id| spool.series(id).unwrap().images).collect();
    assert_eq!(counts, [20, 20]);
}
