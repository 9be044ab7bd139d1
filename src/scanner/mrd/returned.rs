//! Messages to the client.

use super::header::ImageHeader;
use super::kind::MessageKind;
use super::meta::Meta;
use super::pixels::PixelType;

/// Added to the series index of an image for its final mask, and for provisional ones.
const FINAL_SERIES: u16 = 100;
const PROVISIONAL_SERIES: u16 = 200;
/// `image_type` of magnitude images.
const MAGNITUDE: u16 = 1;

/// The mask of an image as an image: the header of the image, its attributes, and the class of each pixel as u16.
pub fn encode_image(
    header: &ImageHeader,
    meta: &Meta,
    classes: &[u8],
    is_provisional: bool,
    most: i64,
) -> Vec<u8> {
    let offset = if is_provisional { PROVISIONAL_SERIES } else { FINAL_SERIES };
    let mut meta = meta.clone();
    let description = meta.get("SeriesDescription").map(|text| format!("{text} "));
    let kind = if is_provisional { "provisional segmentation" } else { "segmentation" };
    meta.set("DataRole", "Segmentation");
    meta.set("Keep_image_geometry", "1");
    meta.set("SeriesDescription", format!("{}{kind}", description.unwrap_or_default()));
    meta.set("ImageComment", format!("classes 0 to {most}, {kind}"));
    meta.set("WindowCenter", format!("{}", most as f64 / 2.0));
    meta.set("WindowWidth", most.max(1).to_string());
    let attributes = meta.to_xml();
    let header = ImageHeader {
        data_type: PixelType::U16.number(),
        channels: 1,
        image_type: MAGNITUDE,
        image_series_index: header.image_series_index.wrapping_add(offset),
        attribute_string_len: attributes.len() as u32,
        ..header.clone()
    };
    let mut bytes = encode_header(&header, &attributes);
    bytes.extend(classes.iter().flat_map(|&class| u16::from(class).to_le_bytes()));
    bytes
}

/// A message with an image up to its pixels.
pub fn encode_header(header: &ImageHeader, attributes: &str) -> Vec<u8> {
    let mut bytes = MessageKind::Image.id().to_le_bytes().to_vec();
    bytes.extend(header.to_bytes());
    bytes.extend((attributes.len() as u64).to_le_bytes());
    bytes.extend(attributes.as_bytes());
    bytes
}

/// A description of the scan, or a text instead of one.
pub fn encode_header_text(text: &str) -> Vec<u8> {
    let mut bytes = MessageKind::Header.id().to_le_bytes().to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// A line for the log of the scanner. It ends with NUL, as the reference server's do.
pub fn encode_text(text: &str) -> Vec<u8> {
    let mut bytes = MessageKind::Text.id().to_le_bytes().to_vec();
    bytes.extend((text.len() as u32 + 1).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}
