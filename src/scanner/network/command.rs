//! Commands of DIMSE messages (PS3.7, sections 6.3 and 9.3): elements of group 0 in Implicit VR Little Endian. Read here and not
//! by dicom-object, because a peer may send anything.

use crate::scanner::Status;

pub(super) const C_STORE_RQ: u16 = 0x0001;
pub(super) const C_ECHO_RQ: u16 = 0x0030;
pub(super) const C_CANCEL_RQ: u16 = 0x0fff;
/// Set in the responses' command fields.
const RESPONSE: u16 = 0x8000;
/// Command Data Set Type of a message without a data set.
const NO_DATA_SET: u16 = 0x0101;
/// Longest UID (PS3.5 9.1).
const LONGEST_UID: usize = 64;
/// Longest Error Comment (VR LO).
const LONGEST_COMMENT: usize = 64;

/// Elements of group 0.
mod element {
    pub const GROUP_LENGTH: u16 = 0x0000;
    pub const AFFECTED_CLASS: u16 = 0x0002;
    pub const COMMAND_FIELD: u16 = 0x0100;
    pub const MESSAGE_ID: u16 = 0x0110;
    pub const RESPONDED_ID: u16 = 0x0120;
    pub const DATA_SET_TYPE: u16 = 0x0800;
    pub const STATUS: u16 = 0x0900;
    pub const ERROR_COMMENT: u16 = 0x0902;
    pub const AFFECTED_INSTANCE: u16 = 0x1000;
}

/// A request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub field: u16,
    pub message_id: u16,
    pub class_uid: String,
    pub instance_uid: String,
    pub has_data: bool,
}

impl Command {
    /// Reads a command set; `None` if it is none.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut command = Self::default();
        let mut data_set_type = None;
        while !bytes.is_empty() {
            let header: &[u8; 8] = bytes.first_chunk()?;
            let [group, element] = [0, 2].map(|at| u16::from_le_bytes([header[at], header[at + 1]]));
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let value = bytes.get(8..8usize.checked_add(length)?)?;
            bytes = &bytes[8 + length..];
            if group != 0 {
                return None;
            }
            match element {
                element::COMMAND_FIELD => command.field = number(value)?,
                element::MESSAGE_ID | element::RESPONDED_ID => command.message_id = number(value)?,
                element::DATA_SET_TYPE => data_set_type = Some(number(value)?),
                element::AFFECTED_CLASS => command.class_uid = uid(value)?,
                element::AFFECTED_INSTANCE => command.instance_uid = uid(value)?,
                _ => {}
            }
        }
        command.has_data = data_set_type? != NO_DATA_SET;
        (command.field != 0 && command.field & RESPONSE == 0).then_some(command)
    }

    /// The response to this request.
    pub fn response(&self, status: Status, comment: &str) -> Vec<u8> {
        let mut elements = Vec::new();
        if !self.class_uid.is_empty() {
            put(&mut elements, element::AFFECTED_CLASS, self.class_uid.as_bytes(), 0);
        }
        put_number(&mut elements, element::COMMAND_FIELD, self.field | RESPONSE);
        put_number(&mut elements, element::RESPONDED_ID, self.message_id);
        put_number(&mut elements, element::DATA_SET_TYPE, NO_DATA_SET);
        put_number(&mut elements, element::STATUS, status.code());
        if !comment.is_empty() {
            let plain = |c: char| if c.is_ascii_graphic() && c != '\\' { c } else { ' ' };
            let comment: String = comment.chars().map(plain).take(LONGEST_COMMENT).collect();
            put(&mut elements, element::ERROR_COMMENT, comment.as_bytes(), b' ');
        }
        if !self.instance_uid.is_empty() {
            put(&mut elements, element::AFFECTED_INSTANCE, self.instance_uid.as_bytes(), 0);
        }
        let mut bytes = Vec::with_capacity(elements.len() + 12);
        put(&mut bytes, element::GROUP_LENGTH, &(elements.len() as u32).to_le_bytes(), 0);
        bytes.append(&mut elements);
        bytes
    }
}

fn number(value: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(value.try_into().ok()?))
}

fn uid(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_matches(['\0', ' ']);
    let is_uid = text.len() <= LONGEST_UID && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_uid.then(|| text.to_owned())
}

fn put(bytes: &mut Vec<u8>, element: u16, value: &[u8], padding: u8) {
    let length = value.len().next_multiple_of(2);
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(element.to_le_bytes());
    bytes.extend((length as u32).to_le_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len() + length - value.len(), padding);
}

fn put_number(bytes: &mut Vec<u8>, element: u16, value: u16) {
    put(bytes, element, &value.to_le_bytes(), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(field: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, element::AFFECTED_CLASS, b"1.2.840.10008.5.1.4.1.1.4", 0);
        put_number(&mut bytes, element::COMMAND_FIELD, field);
        put_number(&mut bytes, element::MESSAGE_ID, 77);
        put_number(&mut bytes, element::DATA_SET_TYPE, 1);
        put(&mut bytes, element::AFFECTED_INSTANCE, b"1.2.3", 0);
        bytes
    }

    #[test]
    fn a_request_is_read_and_answered() {
        let command = Command::parse(&request(C_STORE_RQ)).unwrap();
        assert_eq!((command.message_id, command.has_data), (77, true));
        assert_eq!(command.class_uid, "1.2.840.10008.5.1.4.1.1.4");
        let expected = [
            &b"\0\0\0\0\x04\0\0\0\x6a\0\0\0"[..],
            b"\0\0\x02\0\x1a\0\0\x001.2.840.10008.5.1.4.1.1.4\0",
            b"\0\0\0\x01\x02\0\0\0\x01\x80",
            b"\0\0\x20\x01\x02\0\0\0\x4d\0",
            b"\0\0\0\x08\x02\0\0\0\x01\x01",
            b"\0\0\0\x09\x02\0\0\0\0\xa7",
            b"\0\0\x02\x09\x0a\0\0\0no space  ",
            b"\0\0\0\x10\x06\0\0\x001.2.3\0",
        ]
        .concat();
        assert_eq!(command.response(Status::OutOfResources, "no\nspace ä"), expected);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let bytes = request(C_STORE_RQ);
        assert_eq!(Command::parse(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Command::parse(&request(0x8001)), None);
        assert_eq!(Command::parse(&[]), None);
        let mut long = bytes.clone();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Command::parse(&long), None);
        let mut other = bytes;
        put(&mut other, element::AFFECTED_INSTANCE, b"../../etc", 0);
        assert_eq!(Command::parse(&other), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Command::parse(&bytes);
        }
    }
}
