//! Answers to C-STORE requests: status codes (PS3.4 B.2.3, PS3.7 Annex C) and the command set that carries them.

use std::fmt;

use crate::scanner::dimse::{
    C_STORE_RQ, LONGEST_COMMENT, NO_DATA_SET, RESPONSE, command_set, element, elements, number, put,
    put_number,
};

/// Priority of a request: medium (PS3.7 9.3.1.1).
const MEDIUM: u16 = 0;
/// Command Data Set Type of a message with a data set: any but [`NO_DATA_SET`].
const WITH_DATA_SET: u16 = 1;
/// Longest command set of an answer, bytes.
pub(super) const LONGEST_COMMAND: usize = 16 << 10;

/// A status code of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatus(pub u16);

/// What a status means for the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored.
    Success,
    /// It is stored, but not as it was sent.
    Warning,
    /// It is not stored.
    Failure,
}

/// What the receiver says about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StoreStatus,
    /// Its own words (Error Comment), printable ASCII; usually empty.
    pub comment: String,
}

impl StoreStatus {
    pub const SUCCESS: Self = Self(0x0000);
    /// The receiver has the instance already.
    pub const DUPLICATE: Self = Self(0x0111);
    /// The receiver does not take instances of this SOP class in this transfer syntax.
    pub const CLASS_NOT_SUPPORTED: Self = Self(0x0122);

    pub fn outcome(self) -> Outcome {
        match self.0 {
            0x0000 => Outcome::Success,
            0x0001 | 0x0107 | 0x0116 | 0xb000..=0xbfff => Outcome::Warning,
            _ => Outcome::Failure,
        }
    }

    /// Whether the same instance may be stored later: the receiver lacks space, or does not say why.
    pub fn is_transient(self) -> bool {
        matches!(self.0, 0xa700..=0xa7ff | 0x0110)
    }

    fn meaning(self) -> &'static str {
        match self.0 {
            0x0000 => "success",
            0x0110 => "processing failure",
            0x0111 => "duplicate instance",
            0x0117 => "invalid instance",
            0x0122 => "SOP class not supported",
            0x0124 => "not authorised",
            0x0210 => "duplicate message",
            0x0211 => "operation not supported",
            0x0212 => "wrong argument",
            0xa700..=0xa7ff => "out of resources",
            0xa900..=0xa9ff => "the data set does not match its SOP class",
            0xb000 => "stored with changed values",
            0xb006 => "stored without some elements",
            0xb007 => "stored, but the data set does not match its SOP class",
            0xc000..=0xcfff => "the data set cannot be understood",
            _ if self.outcome() == Outcome::Warning => "stored with a warning",
            _ => "failure",
        }
    }
}

impl fmt::Display for StoreStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome() {
            Outcome::Success => f.write_str(self.meaning()),
            _ => write!(f, "{} ({:04X})", self.meaning(), self.0),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.comment.is_empty() {
            true => self.status.fmt(f),
            false => write!(f, "{}: {}", self.status, self.comment),
        }
    }
}

/// The command set of a C-STORE request.
pub(super) fn request(message_id: u16, class_uid: &str, instance_uid: &str) -> Vec<u8> {
    let mut elements = Vec::new();
    put(&mut elements, element::AFFECTED_CLASS, class_uid.as_bytes(), 0);
    put_number(&mut elements, element::COMMAND_FIELD, C_STORE_RQ);
    put_number(&mut elements, element::MESSAGE_ID, message_id);
    put_number(&mut elements, element::PRIORITY, MEDIUM);
    put_number(&mut elements, element::DATA_SET_TYPE, WITH_DATA_SET);
    put(&mut elements, element::AFFECTED_INSTANCE, instance_uid.as_bytes(), 0);
    command_set(&elements)
}

/// Reads the answer to request `message_id`.
///
/// # Errors
/// Why it is none.
pub(super) fn parse(bytes: &[u8], message_id: u16) -> Result<Answer, &'static str> {
    let elements = elements(bytes).ok_or("an answer that cannot be read")?;
    let value =
        |wanted: u16| elements.iter().find(|(element, _)| *element == wanted).map(|(_, value)| *value);
    let numbered = |wanted: u16| value(wanted).and_then(number);
    if numbered(element::COMMAND_FIELD) != Some(C_STORE_RQ | RESPONSE) {
        return Err("another message than an answer");
    } else if numbered(element::RESPONDED_ID) != Some(message_id) {
        return Err("an answer to another message");
    } else if numbered(element::DATA_SET_TYPE).is_some_and(|kind| kind != NO_DATA_SET) {
        return Err("an answer with a data set");
    }
    let status = numbered(element::STATUS).ok_or("an answer without a status")?;
    let comment = String::from_utf8_lossy(value(element::ERROR_COMMENT).unwrap_or_default());
    let plain = |c: char| if c.is_ascii_graphic() { c } else { ' ' };
    let comment: String = comment.chars().take(LONGEST_COMMENT).map(plain).collect();
    Ok(Answer { status: StoreStatus(status), comment: comment.trim().into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(message_id: u16, status: u16, comment: &str) -> Vec<u8> {
        let mut elements = Vec::new();
        put_number(&mut elements, element::COMMAND_FIELD, 0x8001);
        put_number(&mut elements, element::RESPONDED_ID, message_id);
        put_number(&mut elements, element::DATA_SET_TYPE, NO_DATA_SET);
        put_number(&mut elements, element::STATUS, status);
        put(&mut elements, element::ERROR_COMMENT, comment.as_bytes(), b' ');
        command_set(&elements)
    }

    #[test]
    fn a_request_has_the_bytes_of_the_standard() {
        let expected = [
            &b"\0\0\0\0\x04\0\0\0\x44\0\0\0"[..],
            b"\0\0\x02\0\x06\0\0\x001.2.3\0",
            b"\0\0\0\x01\x02\0\0\0\x01\0",
            b"\0\0\x10\x01\x02\0\0\0\x07\0",
            b"\0\0\0\x07\x02\0\0\0\0\0",
            b"\0\0\0\x08\x02\0\0\0\x01\0",
            b"\0\0\0\x10\x08\0\0\x001.2.3.45",
        ]
        .concat();
        let mut found = request(7, "1.2.3", "1.2.3.45");
        assert_eq!(found[8..12], (found.len() as u32 - 12).to_le_bytes());
        found[8] = 0x44;
        assert_eq!(found, expected);
    }

    #[test]
    fn statuses_are_told_apart() {
        let read = |status| parse(&answer(3, status, ""), 3).unwrap();
        assert_eq!(read(0).status.outcome(), Outcome::Success);
        assert_eq!(read(0).to_string(), "success");
        for status in [0xb000, 0xb006, 0xb007, 0x0107] {
            assert_eq!(read(status).status.outcome(), Outcome::Warning);
        }
        for status in [0xa700, 0xa900, 0xc123, 0x0122, 0x0124, 0xfe00, 0xff00] {
            assert_eq!(read(status).status.outcome(), Outcome::Failure);
        }
        assert!(StoreStatus(0xa701).is_transient() && !StoreStatus(0xa900).is_transient());
        let full = parse(&answer(3, 0xa700, "disk\nfull \u{e4}"), 3).unwrap();
        assert_eq!(full.to_string(), "out of resources (A700): disk full");
    }

    #[test]
    fn other_messages_are_no_answers() {
        assert_eq!(parse(&answer(3, 0, ""), 4), Err("an answer to another message"));
        assert_eq!(parse(&request(3, "1", "2"), 3), Err("another message than an answer"));
        let bytes = answer(3, 0, "");
        assert_eq!(parse(&bytes[..bytes.len() - 9], 3), Err("an answer that cannot be read"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes, 1);
        }
    }
}
