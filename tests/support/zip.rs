//! Zip archives made by hand: members stored as they are, as torch writes them.

use flate2::Crc;

/// An archive with these members, names and bytes.
pub fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let mut crc = Crc::new();
        crc.update(bytes);
        // What the local and the central header share, from "version needed" to "extra field length".
        let size = (bytes.len() as u32).to_le_bytes();
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend([crc.sum().to_le_bytes(), size, size].concat());
        common.extend([(name.len() as u16).to_le_bytes(), [0, 0]].concat());
        let offset = (archive.len() as u32).to_le_bytes();
        archive.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), bytes].concat());
        let place = [&[0u8; 10][..], &offset].concat();
        directory.extend([&b"PK\x01\x02\x14\0"[..], &common, &place, name.as_bytes()].concat());
    }
    let count = (members.len() as u16).to_le_bytes();
    let (size, offset) = ((directory.len() as u32).to_le_bytes(), (archive.len() as u32).to_le_bytes());
    archive.extend(directory);
    archive.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &offset, &[0, 0]].concat());
    archive
}
