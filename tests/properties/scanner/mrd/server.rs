//! Good clients: their images become series, and their masks come back on the same connection.

use std::time::{Duration, Instant};

use self_prompt_sam::scanner::mrd::{ImageHeader, Position, Returns, encode_header};

use super::client::{COLUMNS, ROWS, Server, bytes, header, image, message, pixels, text, wait_until};

const PLANE: usize = COLUMNS as usize * ROWS as usize;

const LIMITS: &str = "<ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD'><encoding><encodingLimits><slice>\
    <minimum>0</minimum><maximum>2</maximum></slice></encodingLimits></encoding></ismrmrdHeader>";

#[test]
fn images_become_a_series_and_masks_come_back() {
    let server = Server::new();
    let mut client = server.connect();
    client.begin();
    client.send(&text(5, "{\"parameters\": {}}"));
    let attributes = "<ismrmrdMeta><meta><name>SeriesDescription</name><value>a &amp; b</value></meta>\
        <meta><name>IceMiniHead</name><value>x</value><value>y</value></meta></ismrmrdMeta>";
    for index in 0..3 {
        client.send(&message(&header(index), attributes, &bytes(&pixels(index))));
    }
    assert!(wait_until(|| server.series().iter().any(|(_, images)| *images == 3)));
    assert!(server.ended.lock().unwrap().is_empty() && server.intake.is_being_sent(&server.series()[0].0));
    client.close();
    assert!(wait_until(|| server.ended.lock().unwrap().len() == 1));
    let id = server.ended.lock().unwrap()[0].clone();
    assert!(!server.intake.is_being_sent(&id));
    for index in 0..3 {
        let (placement, values) = server.image(&id, index);
        assert_eq!(values, pixels(index).into_iter().map(f32::from).collect::<Vec<_>>());
        // The centre of 6 × 4 pixels of 2 × 1 mm is at 1, 2.
        assert_eq!(placement.position, [-4.0, 0.5, 3.0 * index as f64]);
        assert_eq!((placement.pixel_spacing, placement.thickness), ([1.0, 2.0], 3.0));
    }
    for index in [2, 0, 1] {
        server.answer(&id, index, vec![9; PLANE], true); // is not asked for
        server.answer(&id, index, (0..PLANE).map(|pixel| ((pixel + index) % 4) as u8).collect(), false);
    }
    let answers = client.answers();
    assert_eq!(answers.len(), 3);
    for (answer, index) in answers.iter().zip([2, 0, 1]) {
        let of = header(index);
        let expected = ImageHeader {
            image_series_index: 103,
            attribute_string_len: answer.header.attribute_string_len,
            ..of
        };
        assert_eq!(answer.header, expected);
        let classes: Vec<u16> = (0..PLANE).map(|pixel| ((pixel + index) % 4) as u16).collect();
        assert_eq!(answer.classes, classes);
        assert_eq!(answer.meta.get("DataRole"), Some("Segmentation"));
        assert_eq!(answer.meta.get("Keep_image_geometry"), Some("1"));
        assert_eq!(answer.meta.get("SeriesDescription"), Some("a & b segmentation"));
        assert_eq!(answer.meta.get("IceMiniHead"), Some("x"));
    }
}

#[test]
fn an_image_of_several_slices_is_several_images_and_one_answer() {
    let server = Server::with(|listen| {
        listen.returns = Returns { masks: true, provisional: true, originals: false };
        listen.position = Position::Corner;
    });
    let mut client = server.connect();
    client.begin();
    let floats: Vec<f32> = (0..3 * PLANE).map(|value| value as f32 / 7.0).collect();
    let volume = ImageHeader {
        data_type: 5,
        matrix_size: [COLUMNS, ROWS, 3],
        field_of_view: [12.0, 4.0, 9.0],
        ..header(0)
    };
    let raw: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
    client.send(&image(0, &pixels(0)));
    client.send(&message(&volume, "", &raw));
    client.send(&message(&ImageHeader { image_series_index: 4, ..volume.clone() }, "", &raw));
    client.close();
    assert!(wait_until(|| server.ended.lock().unwrap().len() == 2));
    let mut series = server.series();
    series.sort_by_key(|(_, images)| *images);
    let [(other, 3), (id, 4)] = &series[..] else { panic!("{series:?}") };
    for slice in 0..3 {
        let (placement, values) = server.image(id, 1 + slice);
        assert_eq!(placement.position, [1.0, 2.0, 3.0 * slice as f64]);
        assert_eq!(values, &floats[slice * PLANE..][..PLANE], "float32, bit for bit");
    }
    for slice in 0..3 {
        server.answer(id, 1 + slice, vec![slice as u8; PLANE], true);
    }
    for index in (0..4).rev() {
        server.answer(id, index, vec![index as u8; PLANE], false);
    }
    (0..3).for_each(|slice| server.answer(other, slice, vec![3; PLANE], false));
    let answers = client.answers();
    let found: Vec<_> =
        answers.iter().map(|answer| (answer.header.image_series_index, answer.classes.len())).collect();
    assert_eq!(found, [(203, 3 * PLANE), (103, 3 * PLANE), (103, PLANE), (104, 3 * PLANE)]);
    let planes = |at: usize| answers[at].classes.chunks(PLANE).map(|plane| plane[0]).collect::<Vec<_>>();
    assert_eq!([planes(0), planes(1), planes(2)], [vec![0, 1, 2], vec![1, 2, 3], vec![0]]);
}

#[test]
fn limits_in_the_header_announce_the_number_of_images() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(&text(3, LIMITS));
    client.send(&image(0, &pixels(0)));
    assert!(wait_until(|| server.series().len() == 1));
    let state = server.intake.spool().series(&server.series()[0].0).unwrap();
    assert_eq!(state.expected, Some(3));
    assert_eq!(state.record.name, format!("MR_3_{}", server.series()[0].0));
    client.leave();
    server.serves();
}

#[test]
fn originals_come_back_when_asked_for() {
    let server = Server::with(|listen| {
        listen.returns = Returns { masks: false, provisional: false, originals: true };
    });
    let mut client = server.connect();
    client.begin();
    let sent = ImageHeader { attribute_string_len: 14, ..header(0) };
    client.send(&message(&sent, "<ismrmrdMeta/>", &bytes(&pixels(0))));
    client.close();
    let answers = client.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].classes, pixels(0));
    assert_eq!(answers[0].header, sent);
}

/// Probes, and clients that leave: no error, and nothing is held.
#[test]
fn clients_may_leave_at_any_time() {
    let server = Server::new();
    server.connect().leave();
    let mut client = server.connect();
    client.begin();
    client.leave();
    let mut client = server.connect();
    client.begin();
    client.close();
    assert!(client.answers().is_empty(), "a scan without images ends at once");
    let mut client = server.connect();
    client.begin();
    client.send(&image(0, &pixels(0)));
    assert!(wait_until(|| server.series().len() == 1));
    let id = server.series()[0].0.clone();
    assert!(server.link.is_waiting());
    client.leave();
    assert!(wait_until(|| !server.link.is_waiting() && !server.intake.is_being_sent(&id)));
    server.answer(&id, 0, vec![1; PLANE], false);
    server.serves();
}

/// A client that sends and never reads: masks are taken from the node at once, and in the end it is cut off.
#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    const SIDE: u16 = 1024;
    const IMAGES: usize = 16;
    let server = Server::new();
    let mut client = server.connect();
    client.begin();
    let large = ImageHeader { matrix_size: [SIDE, SIDE, 1], ..header(0) };
    let raw = vec![0; 2 * usize::from(SIDE) * usize::from(SIDE)];
    for _ in 0..IMAGES {
        client.send(&encode_header(&large, ""));
        client.send(&raw);
    }
    client.close();
    assert!(wait_until(|| server.ended.lock().unwrap().len() == 1));
    let id = server.ended.lock().unwrap()[0].clone();
    let masks = vec![vec![1; usize::from(SIDE) * usize::from(SIDE)]; IMAGES];
    let began = Instant::now();
    for (index, mask) in masks.into_iter().enumerate().skip(1) {
        server.answer(&id, index, mask, false);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    server.serves();
    // It awaits its first mask, until it is cut off after 2 s without reading.
    assert!(wait_until(|| !server.link.is_waiting()));
    drop(client);
}

#[test]
fn a_series_without_masks_is_told() {
    let server = Server::with(|listen| listen.wait = Duration::from_secs(1));
    let mut client = server.connect();
    client.begin();
    client.send(&image(0, &pixels(0)));
    client.close();
    let (images, lines, is_closed) = client.everything();
    assert!(images.is_empty() && is_closed);
    assert_eq!(lines, ["ERROR    the masks of 1 images were not there 1 s after CLOSE"]);
}

#[test]
fn a_node_that_stops_closes_its_connections() {
    let server = Server::new();
    let mut client = server.connect();
    client.begin();
    client.send(&image(0, &pixels(0)));
    assert!(wait_until(|| server.series().len() == 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(server.link.stop());
    assert!(client.answers().is_empty());
}

#[test]
fn only_so_many_clients_are_served() {
    let server = Server::with(|listen| listen.connections = 1);
    let mut first = server.connect();
    first.begin();
    first.send(&image(0, &pixels(0)));
    assert!(wait_until(|| server.series().len() == 1));
    let (_, _, is_closed) = server.connect().everything();
    assert!(!is_closed);
    first.leave();
    assert!(wait_until(|| !server.link.is_waiting()));
    server.serves();
}
