//! Extensions of a NIfTI header: records `size, code, content` after the header, announced by the first byte of the
//! extender. Readers skip records whose code they do not know.
//!
//! Class names are stored in a record of code 6 (a comment: plain text) as
//! `{"labels":{"1":"anterior","2":"posterior"}}`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::classes::ClassTable;
use super::header::{EXTENDER_BYTES, Header};

/// Plain text.
const COMMENT: i32 = 6;
/// Record sizes are multiples of this.
const ALIGNMENT: usize = 16;
/// Number of bytes of size and code.
const HEAD: usize = 8;
/// The beginning of our comment.
const CLASS_NAMES: &str = "{\"labels\":";

/// The complete records of `extension` (extender and what follows) that are not ours; none if the extender is 0.
fn records(extension: &[u8], is_little_endian: bool) -> Vec<&[u8]> {
    let Some((&[announced, ..], mut rest)) = extension.split_first_chunk::<EXTENDER_BYTES>() else {
        return Vec::new();
    };
    let integer = |bytes: [u8; 4]| {
        if is_little_endian { i32::from_le_bytes(bytes) } else { i32::from_be_bytes(bytes) }
    };
    let mut records = Vec::new();
    while announced != 0
        && let Some((size, _)) = rest.split_first_chunk()
        && let Ok(size) = usize::try_from(integer(*size))
        && size >= ALIGNMENT
        && size % ALIGNMENT == 0
        && let Some((record, others)) = rest.split_at_checked(size)
    {
        if !record[HEAD..].starts_with(CLASS_NAMES.as_bytes()) {
            records.push(record);
        }
        rest = others;
    }
    records
}

/// Extender and records for a label map: the image's records, and the names of the classes without the background.
pub(super) fn for_labels(of_image: &[u8], is_little_endian: bool, classes: &ClassTable) -> Vec<u8> {
    let mut extension = vec![0; EXTENDER_BYTES];
    for record in records(of_image, is_little_endian) {
        extension.extend_from_slice(record);
    }
    if classes.len() > 1 {
        extension.extend(class_names(classes, is_little_endian));
    }
    extension[0] = u8::from(extension.len() > EXTENDER_BYTES);
    extension
}

fn class_names(classes: &ClassTable, is_little_endian: bool) -> Vec<u8> {
    let others = classes.classes().iter().filter(|class| class.value != 0);
    let names: serde_json::Map<_, _> =
        others.map(|class| (class.value.to_string(), class.name.as_str().into())).collect();
    let text = format!("{CLASS_NAMES}{}}}", Value::Object(names));
    let size = (HEAD + text.len()).next_multiple_of(ALIGNMENT);
    let mut record = Vec::with_capacity(size);
    for number in [size as i32, COMMENT] {
        record.extend(if is_little_endian { number.to_le_bytes() } else { number.to_be_bytes() });
    }
    record.extend(text.as_bytes());
    record.resize(size, 0);
    record
}

/// Values and names of the classes in a label map of ours, without the background; empty for other volumes.
pub fn names_of_classes(header: &Header) -> BTreeMap<u8, String> {
    read_names(&header.extension)
}

fn read_names(extension: &[u8]) -> BTreeMap<u8, String> {
    let text = String::from_utf8_lossy(extension);
    let Some(start) = text.find(CLASS_NAMES) else { return BTreeMap::new() };
    // Padding and other records may follow.
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let Some(Ok(Value::Object(mut found))) = values.next() else { return BTreeMap::new() };
    found.remove("labels").and_then(|names| serde_json::from_value(names).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ClassTable {
        ClassTable::of_names([(7, "left \"lobe\"".into()), (250, "größer".into())])
    }

    #[test]
    fn records_that_are_not_whole_are_left_out() {
        for is_little_endian in [true, false] {
            let ours = for_labels(&[1, 0, 0, 0], is_little_endian, &names());
            assert_eq!((ours[0], ours.len() % ALIGNMENT), (1, EXTENDER_BYTES));
            // After writing again, the names occur once.
            assert_eq!(for_labels(&ours, is_little_endian, &names()), ours);
            assert_eq!(for_labels(&ours, is_little_endian, &ClassTable::of_names([])), [0; 4]);
            let other =
                [[1, 0, 0, 0].as_slice(), &class_names(&ClassTable::of_names([]), is_little_endian)].concat();
            let mut other = other.clone();
            other[4 + HEAD] = b'x';
            let mut kept = other.clone();
            kept.extend(&ours[4..]);
            other.extend([0x7f; 40]); // no record
            assert_eq!(for_labels(&other, is_little_endian, &names()), kept);
            other[0] = 0; // not announced
            assert_eq!(for_labels(&other, is_little_endian, &names()), ours);
        }
        assert_eq!(for_labels(&[], true, &ClassTable::of_names([])), [0; 4]);
    }

    #[test]
    fn names_are_read_again() {
        let written = for_labels(&[0; 4], true, &names());
        let expected = [(7, "left \"lobe\"".to_owned()), (250, "größer".to_owned())];
        assert_eq!(read_names(&written), BTreeMap::from(expected));
        assert_eq!(read_names(&written[..written.len() / 2]), BTreeMap::new());
        assert_eq!(read_names(&[0; 4]), BTreeMap::new());
    }

    #[test]
    fn names_are_json_that_is_padded_with_zeros() {
        let record = class_names(&names(), true);
        let text = std::str::from_utf8(&record[HEAD..]).unwrap().trim_end_matches('\0');
        let json: Value = serde_json::from_str(text).unwrap();
        assert_eq!(json["labels"]["7"], "left \"lobe\"");
        assert_eq!(json["labels"]["250"], "größer");
    }
}
