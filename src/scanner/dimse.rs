//! Command sets of DIMSE messages (PS3.7, sections 6.3 and E): elements of group 0 in Implicit VR Little Endian. Read
//! here and not by dicom-object, because a peer may send anything.

pub(super) const C_STORE_RQ: u16 = 0x0001;
pub(super) const C_ECHO_RQ: u16 = 0x0030;
pub(super) const C_CANCEL_RQ: u16 = 0x0fff;
/// Set in the responses' command fields.
pub(super) const RESPONSE: u16 = 0x8000;
/// Command Data Set Type of a message without a data set.
pub(super) const NO_DATA_SET: u16 = 0x0101;
/// Longest Error Comment (VR LO).
pub(super) const LONGEST_COMMENT: usize = 64;
/// Longest UID (PS3.5 9.1).
const LONGEST_UID: usize = 64;

/// Elements of group 0.
pub(super) mod element {
    pub const GROUP_LENGTH: u16 = 0x0000;
    pub const AFFECTED_CLASS: u16 = 0x0002;
    pub const COMMAND_FIELD: u16 = 0x0100;
    pub const MESSAGE_ID: u16 = 0x0110;
    pub const RESPONDED_ID: u16 = 0x0120;
    pub const PRIORITY: u16 = 0x0700;
    pub const DATA_SET_TYPE: u16 = 0x0800;
    pub const STATUS: u16 = 0x0900;
    pub const ERROR_COMMENT: u16 = 0x0902;
    pub const AFFECTED_INSTANCE: u16 = 0x1000;
}

/// The elements of a command set with their values; `None` if it is none.
pub(super) fn elements(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let header: &[u8; 8] = bytes.first_chunk()?;
        let [group, element] = [0, 2].map(|at| u16::from_le_bytes([header[at], header[at + 1]]));
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let value = bytes.get(8..8usize.checked_add(length)?)?;
        bytes = &bytes[8 + length..];
        if group != 0 {
            return None;
        }
        elements.push((element, value));
    }
    Some(elements)
}

/// The command set of these elements: with its length before them.
pub(super) fn command_set(elements: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(elements.len() + 12);
    put(&mut bytes, element::GROUP_LENGTH, &(elements.len() as u32).to_le_bytes(), 0);
    bytes.extend(elements);
    bytes
}

pub(super) fn number(value: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(value.try_into().ok()?))
}

pub(super) fn uid(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_matches(['\0', ' ']);
    is_uid(text).then(|| text.to_owned())
}

/// Whether a text has the length and the characters of a UID.
pub(super) fn is_uid(text: &str) -> bool {
    text.len() <= LONGEST_UID && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

pub(super) fn put(bytes: &mut Vec<u8>, element: u16, value: &[u8], padding: u8) {
    let length = value.len().next_multiple_of(2);
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(element.to_le_bytes());
    bytes.extend((length as u32).to_le_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len() + length - value.len(), padding);
}

pub(super) fn put_number(bytes: &mut Vec<u8>, element: u16, value: u16) {
    put(bytes, element, &value.to_le_bytes(), 0);
}
