//! The look before parsing: what it refuses, and what it lets pass.

use super::*;
use std::io::Cursor;

/// A file in this transfer syntax with this data set.
fn file(transfer_syntax: &str, data_set: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM\x02\0\x10\0UI");
    bytes.extend((transfer_syntax.len() as u16).to_le_bytes());
    bytes.extend(transfer_syntax.as_bytes());
    bytes.extend(data_set);
    bytes
}

fn scanned(transfer_syntax: &str, data_set: &[u8]) -> Result<Option<u64>, String> {
    let bytes = file(transfer_syntax, data_set);
    scan(Cursor::new(&bytes), bytes.len() as u64)
        .map(|scanned| scanned.pixels.map(|pixels| pixels.end - pixels.start))
}

const EXPLICIT: &str = "1.2.840.10008.1.2.1\0";
const IMPLICIT: &str = "1.2.840.10008.1.2\0";
/// Patient comments of 2 GB in 12 bytes, and pixel data of 4 bytes.
const LARGE: &[u8] = b"\x10\0\0\x40UT\0\0\0\0\0\x80";
const PIXELS: &[u8] = b"\xe0\x7f\x10\0OW\0\0\x04\0\0\0\x01\x02\x03\x04";

#[test]
fn lengths_beyond_the_end_are_refused() {
    assert_eq!(scanned(EXPLICIT, PIXELS), Ok(Some(4)));
    assert!(scanned(EXPLICIT, &PIXELS[..PIXELS.len() - 1]).unwrap_err().contains("truncated"));
    assert!(scanned(EXPLICIT, &[LARGE, PIXELS].concat()).unwrap_err().contains("truncated"));
    assert!(scanned(IMPLICIT, b"\x10\0\x10\0\xf0\xff\xff\xffA^").unwrap_err().contains("truncated"));
    // With a value representation that does not exist, the length has 32 bits, as the parser reads it.
    let unknown = b"\x10\0\x20\0IO\x0a\0SECRET-ID ";
    assert!(scanned(EXPLICIT, &[unknown, PIXELS].concat()).unwrap_err().contains("truncated"));
}

/// The parser reads files with compressed pixels to their end.
#[test]
fn what_follows_encapsulated_pixels_is_looked_at() {
    const RLE: &str = "1.2.840.10008.1.2.5\0";
    let pixels = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0";
    let padding = b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0\0\0";
    assert_eq!(scanned(RLE, &[&pixels[..], padding].concat()), Ok(None));
    assert!(scanned(RLE, &[&pixels[..], LARGE].concat()).unwrap_err().contains("truncated"));
    assert!(scanned(RLE, PIXELS).unwrap_err().contains("not encapsulated"));
    assert_eq!(scanned(EXPLICIT, &[PIXELS, LARGE].concat()), Ok(Some(4)));
}

/// The parser reads whole numbers only.
#[test]
fn values_that_are_no_whole_number_of_units_are_refused() {
    for (syntax, number) in [
        (EXPLICIT, &b"\x20\0\x0e\0UL\x06\x001.2\0\0\0"[..]),
        (EXPLICIT, b"\x28\0\x10\0US\x03\0\x04\0\0"),
        (IMPLICIT, b"\x28\0\x10\0\x03\0\0\0\x04\0\0"),
    ] {
        let error = scanned(syntax, &[number, PIXELS].concat()).unwrap_err();
        assert!(error.contains("bytes, but values of"), "{error}");
    }
    assert_eq!(scanned(EXPLICIT, &[&b"\x28\0\x10\0US\x02\0\x04\0"[..], PIXELS].concat()), Ok(Some(4)));
}

#[test]
fn the_data_set_begins_after_group_2() {
    let meta = |bytes: &[u8]| file_meta(Cursor::new(bytes), bytes.len() as u64);
    let bytes = [&b"\0".repeat(128)[..], b"DICM", b"\x02\0\x02\0UI\x06\x001.2.3\0"].concat();
    assert_eq!(meta(&bytes).unwrap_err(), "no transfer syntax");
    let bytes = [&bytes[..], b"\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\0", PIXELS].concat();
    let found = meta(&bytes).unwrap();
    assert_eq!((&*found.class_uid, &*found.instance_uid), ("1.2.3", ""));
    assert_eq!(found.transfer_syntax, "1.2.840.10008.1.2");
    assert_eq!(&bytes[found.data_set_at as usize..], PIXELS);
    for (length, is_good) in [(26, true), (24, false), (80, false)] {
        let group = [&b"\0".repeat(128)[..], b"DICM", b"\x02\0\0\0UL\x04\0", &[length, 0, 0, 0]].concat();
        let bytes = [&group[..], b"\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\0", PIXELS].concat();
        assert_eq!(meta(&bytes).is_ok(), is_good, "{length}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (syntax, sequence) in [
        (IMPLICIT, &b"\x08\0\x40\x11\xff\xff\xff\xff"[..]),
        (EXPLICIT, b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"),
    ] {
        let nested = [sequence, b"\xfe\xff\0\xe0\xff\xff\xff\xff"].concat().repeat(1000);
        assert!(scanned(syntax, &nested).unwrap_err().contains("32 sequences"));
    }
}

#[test]
fn sequences_of_both_kinds_are_left_at_their_end() {
    let item = b"\xfe\xff\0\xe0\0\0\0\0";
    let defined = [&b"\x08\0\x40\x11SQ\0\0\x08\0\0\0"[..], item].concat();
    let delimited = [
        &b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"[..],
        b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
    ]
    .concat();
    assert_eq!(scanned(EXPLICIT, &[&defined[..], &delimited, PIXELS].concat()), Ok(Some(4)));
    let rle = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0\x02\0\0\0ab\xfe\xff\xdd\xe0\0\0\0\0";
    assert_eq!(scanned("1.2.840.10008.1.2.5\0", rle), Ok(None));
    assert!(scanned("1.2.840.10008.1.2.5\0", &rle[..rle.len() - 9]).unwrap_err().contains("truncated"));
}
