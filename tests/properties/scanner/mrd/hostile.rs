//! Clients that break the protocol: their connection ends with a line that names why, and the next one is served.

use std::time::{Duration, Instant};

use self_prompt_sam::scanner::mrd::{ImageHeader, encode_header};

use super::client::{Server, bytes, header, image, message, pixels, text};

/// Messages that end a connection, and the reason that it gets; `None` if it ends before its client can be told.
fn fatal() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let garbage: Vec<u8> = (0..10_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let head = |change: &dyn Fn(&mut ImageHeader)| {
        let mut header = header(0);
        change(&mut header);
        encode_header(&header, "")
    };
    let with_attributes = |length: u64| {
        let mut bytes = head(&|_| {});
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&length.to_le_bytes());
        [bytes, vec![b'<'; 100]].concat()
    };
    let long_text = |id: u16| [&id.to_le_bytes()[..], &[0xff; 4]].concat();
    let small = bytes(&pixels(0));
    vec![
        ("garbage", garbage, Some("message ")),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Some("message 17735")),
        ("an unknown message", 4711u16.to_le_bytes().to_vec(), Some("message 4711, which is unknown")),
        ("a deprecated message", 1010u16.to_le_bytes().to_vec(), Some("1010, which is deprecated")),
        ("an array", 1030u16.to_le_bytes().to_vec(), Some("array")),
        ("a header of 4 GB", long_text(3), Some("a text of 4294967295 bytes")),
        ("a text of 4 GB", long_text(5), Some("a text of 4294967295 bytes")),
        ("attributes of 4 GB", with_attributes(1 << 32), Some("attributes of 4294967296 bytes")),
        ("attributes without end", with_attributes(u64::MAX), Some("attributes of 18446744073709551615")),
        (
            "an image of 200 MB",
            head(&|header| header.matrix_size = [10_000, 10_000, 1]),
            Some("an image of "),
        ),
        (
            "an endless image",
            head(&|header| {
                (header.matrix_size, header.channels, header.data_type) = ([u16::MAX; 3], u16::MAX, 8);
            }),
            Some("an image of 18446744073709551615 bytes"),
        ),
        ("pixels of no type", head(&|header| header.data_type = 99), Some("data type 99")),
        (
            "a matrix larger than the pixels",
            [head(&|header| header.matrix_size = [100, 100, 1]), small.clone()].concat(),
            None,
        ),
        (
            // What follows the announced pixels is read as a message.
            "a matrix smaller than the pixels",
            [head(&|header| header.matrix_size = [2, 2, 1]), vec![0xee; 48]].concat(),
            Some("message 61166, which is unknown"),
        ),
        ("cut in the id", vec![3], None),
        ("cut in the header", head(&|_| {})[..100].to_vec(), None),
        ("cut in the attributes", with_attributes(1000), None),
        ("cut in the pixels", [head(&|_| {}), small[..7].to_vec()].concat(), None),
        ("cut in the configuration", vec![1, 0, b'a'], None),
    ]
}

#[test]
fn violations_end_only_their_connection() {
    let server = Server::new();
    let mut told = 0;
    for (name, bytes, reason) in fatal() {
        for is_described in [false, true] {
            let mut client = server.connect();
            if is_described {
                client.begin();
            }
            client.send(&bytes);
            let _ = client.0.shutdown(std::net::Shutdown::Write);
            let began = Instant::now();
            let (images, lines, _) = client.everything();
            assert!(images.is_empty() && began.elapsed() < Duration::from_secs(10), "{name}");
            match (reason, &lines[..]) {
                // A connection that is closed with bytes unread may be reset before its client has read the reason.
                (Some(_) | None, []) => {}
                (Some(reason), [line]) => {
                    assert!(line.contains(reason) && !line.contains('\n'), "{name}: {line}");
                    told += 1;
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    assert!(told >= 16, "only {told} clients were told why");
    // Of an image that is too small nobody can know before its end is read as a message.
    assert_eq!(server.series().iter().map(|(_, images)| *images).collect::<Vec<_>>(), [1, 1]);
    server.serves();
}

/// Images and descriptions that cannot be used are named once, and what comes after them is taken.
#[test]
fn what_cannot_be_used_is_skipped_with_a_line() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(&text(3, "<no scan"));
    let small = bytes(&pixels(0));
    let of = |change: fn(&mut ImageHeader)| {
        let mut header = header(0);
        change(&mut header);
        let pixels = vec![1; header.layout().unwrap().bytes() as usize];
        message(&header, "", &pixels)
    };
    for _ in 0..2 {
        client.send(&of(|header| header.channels = 3));
        client.send(&of(|header| header.image_type = 6));
        client.send(&of(|header| header.matrix_size[2] = 0));
        client.send(&of(|header| header.read_dir = [f32::NAN; 3]));
        client.send(&message(&header(0), "no attributes", &small));
    }
    let mut samples = vec![0; 2 + 340];
    samples[..2].copy_from_slice(&1008u16.to_le_bytes());
    client.send(&samples);
    client.send(&samples);
    client.close();
    let began = Instant::now();
    while server.ended.lock().unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = server.ended.lock().unwrap()[0].clone();
    assert_eq!(server.series(), [(id.clone(), 2)]);
    (0..2).for_each(|index| server.answer(&id, index, vec![1; pixels(0).len()], false));
    let (images, lines, is_closed) = client.everything();
    assert!(is_closed);
    assert_eq!(images.len(), 2);
    for reason in [
        "header that is no XML",
        "3 channels",
        "colour",
        "without pixels",
        "directions",
        "attributes",
        "k-space data",
    ] {
        assert_eq!(lines.iter().filter(|line| line.contains(reason)).count(), 1, "{reason}: {lines:?}");
    }
    assert_eq!(lines.len(), 7, "{lines:?}");
    server.serves();
}

/// Clients that send nothing, or stop within a message, hold no others up and are cut off.
#[test]
fn slow_clients_are_cut_off() {
    let server = Server::with(|listen| listen.connections = 4);
    let silent = server.connect();
    let mut stuck = server.connect();
    stuck.begin();
    stuck.send(&image(0, &pixels(0))[..220]);
    server.serves();
    let began = Instant::now();
    for mut client in [silent, stuck] {
        let (_, lines, is_closed) = client.everything();
        assert!(is_closed, "{lines:?}");
        assert_eq!(lines, ["ERROR    the client was silent or too slow"]);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    server.serves();
}

/// A client that has described its scan may be silent for long: the first image may come at the end of the scan.
#[test]
fn a_scan_may_pause() {
    let server = Server::new();
    let mut client = server.connect();
    client.begin();
    std::thread::sleep(Duration::from_secs(3));
    client.send(&image(0, &pixels(0)));
    client.close();
    assert!(super::client::wait_until(|| server.ended.lock().unwrap().len() == 1));
}

/// Nothing is read of an image that exceeds the limit.
#[test]
fn an_image_larger_than_the_limit_is_refused_before_it_comes() {
    let server = Server::new();
    let mut client = server.connect();
    client.begin();
    client.send(&encode_header(&ImageHeader { matrix_size: [5000, 5000, 2], ..header(0) }, ""));
    let (_, lines, _) = client.everything();
    assert!(lines.iter().all(|line| line.contains("an image of 100000000 bytes")), "{lines:?}");
    server.serves();
}
