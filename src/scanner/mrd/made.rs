//! Images as an MRD client sends them.

use super::header::ImageHeader;
use super::pixels::PixelType;
use super::returned::encode_header;
use crate::dicom::Placement;

/// The message of an image with these pixels, row by row: as i16 if that holds all values, else as float32. `series` and
/// `index` number the series of the connection and the images of the series, from 1.
pub fn encode_slice(placement: &Placement, pixels: &[f32], series: u16, index: u16) -> Vec<u8> {
    let is_short = |value: &f32| f32::from(*value as i16).to_bits() == value.to_bits();
    let is_short = pixels.iter().all(is_short);
    let header = ImageHeader {
        data_type: if is_short { PixelType::I16 } else { PixelType::F32 }.number(),
        image_index: index,
        image_series_index: series,
        slice: index - 1,
        ..header_of(placement)
    };
    let mut message = encode_header(&header, "");
    match is_short {
        true => message.extend(pixels.iter().flat_map(|&value| (value as i16).to_le_bytes())),
        false => message.extend(pixels.iter().flat_map(|value| value.to_le_bytes())),
    }
    message
}

/// Header of an image at this place; `position` is its centre.
fn header_of(placement: &Placement) -> ImageHeader {
    let Placement { rows, columns, position, orientation: [along_row, along_column], pixel_spacing, .. } =
        placement;
    let [down, across] = *pixel_spacing;
    let half = |count: &usize| count.saturating_sub(1) as f64 / 2.0;
    let to_centre =
        |axis: usize| along_row[axis] * across * half(columns) + along_column[axis] * down * half(rows);
    let [a, b, c] = *along_row;
    let [d, e, f] = *along_column;
    ImageHeader {
        version: 1,
        matrix_size: [*columns as u16, *rows as u16, 1],
        field_of_view: [across * *columns as f64, down * *rows as f64, placement.thickness]
            .map(|size| size as f32),
        channels: 1,
        position: [0, 1, 2].map(|axis| (position[axis] + to_centre(axis)) as f32),
        read_dir: along_row.map(|part| part as f32),
        phase_dir: along_column.map(|part| part as f32),
        slice_dir: [b * f - c * e, c * d - a * f, a * e - b * d].map(|part| part as f32),
        image_type: 1,
        ..ImageHeader::default()
    }
}
