//! Requests of peers (PS3.7, sections 9.1 and 9.3) and the responses to them.

use crate::scanner::Status;
use crate::scanner::dimse::{
    LONGEST_COMMENT, NO_DATA_SET, RESPONSE, command_set, element, elements, number, put, put_number, uid,
};

pub(super) use crate::scanner::dimse::{C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ};

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
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut command = Self::default();
        let mut data_set_type = None;
        for (element, value) in elements(bytes)? {
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
        command_set(&elements)
    }
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
