//! TensorBoard event files: records of length, masked CRC32C, data, masked CRC32C (TensorFlow's TFRecord format,
//! `tensorflow/core/lib/io/record_writer.h`). Each record is an `Event` protobuf
//! (`tensorflow/core/util/event.proto`), of which only wall time, step, version, scalars and images are written. The
//! existing crates are unmaintained.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _, RgbImage};

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Added to a rotated checksum.
const MASK: u32 = 0xA282_EAD8;

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
}

impl EventWriter {
    /// A new file in `folder`.
    ///
    /// # Errors
    /// A folder or file that cannot be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{:010}.{}.spsam", now.as_secs(), std::process::id());
        let mut writer = Self { file: BufWriter::new(File::create(folder.join(name))?) };
        writer.event(0, |event| event.bytes(3, b"brain.Event:2"))?;
        Ok(writer)
    }

    /// A point of a curve.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> io::Result<()> {
        self.summary(step, tag, |entry| entry.float(2, value as f32))
    }

    /// A picture.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn picture(&mut self, step: u64, tag: &str, picture: &RgbImage) -> io::Result<()> {
        let (width, height) = picture.dimensions();
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8)
            .map_err(io::Error::other)?;
        self.summary(step, tag, |entry| {
            let mut image = Message::default();
            image.integer(1, u64::from(height));
            image.integer(2, u64::from(width));
            image.integer(3, 3); // colours
            image.bytes(4, &png);
            entry.bytes(4, &image.0);
        })
    }

    /// Flushes everything to the file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn summary(&mut self, step: u64, tag: &str, fill: impl FnOnce(&mut Message)) -> io::Result<()> {
        let mut entry = Message::default();
        entry.bytes(1, tag.as_bytes());
        fill(&mut entry);
        let mut summary = Message::default();
        summary.bytes(1, &entry.0);
        self.event(step, |event| event.bytes(5, &summary.0))
    }

    fn event(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut event = Message::default();
        event.double(1, now.as_secs_f64());
        event.integer(2, step);
        fill(&mut event);
        self.file.write_all(&record(&event.0))
    }
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

fn masked_crc(data: &[u8]) -> u32 {
    CRC32C.checksum(data).rotate_right(15).wrapping_add(MASK)
}

/// A protobuf message being built.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(CRC32C.checksum(b"123456789"), 0xE306_9283); // RFC 3720's polynomial, check value
        assert_eq!(CRC32C.checksum(&[0; 32]), 0x8A91_36AA); // RFC 3720, B.4
    }

    #[test]
    fn messages_are_protobuf() {
        let mut message = Message::default();
        message.integer(1, 150); // protobuf's own example: 08 96 01
        message.bytes(2, b"testing"); // and: 12 07 …
        assert_eq!(message.0, b"\x08\x96\x01\x12\x07testing");
    }

    #[test]
    fn a_file_is_a_chain_of_records() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::new(folder.path()).unwrap();
        writer.scalar(7, "loss", 0.5).unwrap();
        writer.picture(8, "overlay", &RgbImage::new(3, 2)).unwrap();
        writer.flush().unwrap();
        let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let (bytes, mut at, mut records) = (fs::read(path).unwrap(), 0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + length];
            assert_eq!(record(data), bytes[at..at + 16 + length]);
            records.push(data.to_vec());
            at += 16 + length;
        }
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        let scalar = [&b"\x10\x07\x2a\x0d\x0a\x0b\x0a\x04loss\x15"[..], &0.5f32.to_le_bytes()].concat();
        assert!(records[1].ends_with(&scalar), "{:x?}", records[1]);
        assert!(records[2].windows(4).any(|window| window == b"\x89PNG"));
    }
}
