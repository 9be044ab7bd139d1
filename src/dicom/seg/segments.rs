//! The segments: names, codes, how they were made, colours (PS3.3 C.8.20.2 and C.8.20.4).

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::segmentation::{Model, Segment};
use crate::bundle::plain_text;
use crate::dicom::element::{self, code_elements, coded, item, number, numbers, text};

/// Most characters of a name (VR LO).
const LONGEST_NAME: usize = 64;

pub(super) fn sequence(segments: &[Segment], model: &Model) -> InMemElement {
    let items = (1..).zip(segments).map(|(number, segment)| described(number, segment, model));
    element::sequence(tags::SEGMENT_SEQUENCE, items)
}

fn described(segment_number: u16, segment: &Segment, model: &Model) -> InMemDicomObject {
    let codes = &segment.codes;
    let mut kind = item(code_elements(&codes.kind));
    if let Some(modifier) = &codes.modifier {
        kind.put(coded(tags::SEGMENTED_PROPERTY_TYPE_MODIFIER_CODE_SEQUENCE, modifier));
    }
    item([
        number(tags::SEGMENT_NUMBER, segment_number),
        text(tags::SEGMENT_LABEL, plain_text(&segment.name, LONGEST_NAME)),
        text(tags::SEGMENT_ALGORITHM_TYPE, if model.is_prompted { "SEMIAUTOMATIC" } else { "AUTOMATIC" }),
        text(tags::SEGMENT_ALGORITHM_NAME, plain_text(&model.name, LONGEST_NAME)),
        coded(tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE, &codes.category),
        element::sequence(tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE, [kind]),
        numbers(tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE, lab(segment.colour)),
    ])
}

/// A colour of sRGB in CIELAB (PS3.3 C.10.7.1.1), relative to white D65 as pixelmed, DCMTK and highdicom do.
fn lab(colour: [u8; 3]) -> [u16; 3] {
    const XYZ_FROM_SRGB: [[f64; 3]; 3] =
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]];
    const WHITE: [f64; 3] = [0.95047, 1.0, 1.08883];
    let linear = colour.map(|value| match f64::from(value) / 255.0 {
        c if c <= 0.04045 => c / 12.92,
        c => ((c + 0.055) / 1.055).powf(2.4),
    });
    let [x, y, z] = [0, 1, 2].map(|axis| {
        let part: f64 = XYZ_FROM_SRGB[axis].iter().zip(linear).map(|(weight, value)| weight * value).sum();
        match part / WHITE[axis] {
            t if t > 216.0 / 24389.0 => t.cbrt(),
            t => 841.0 / 108.0 * t + 4.0 / 29.0,
        }
    });
    let to_code = |value: f64, low: f64, range: f64| ((value - low) / range * 65535.0).round() as u16;
    [
        to_code(116.0 * y - 16.0, 0.0, 100.0),
        to_code(500.0 * (x - y), -128.0, 255.0),
        to_code(200.0 * (y - z), -128.0, 255.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_black_and_orange_have_their_places_in_cielab() {
        // a = b = 0 is 128 / 255 of the range.
        let neutral = (128.0f64 / 255.0 * 65535.0).round() as u16;
        let near = |found: [u16; 3], expected: [u16; 3]| {
            found.iter().zip(expected).all(|(&a, b)| a.abs_diff(b) < 10) // white of four digits
        };
        assert!(near(lab([255; 3]), [65535, neutral, neutral]), "{:?}", lab([255; 3]));
        assert!(near(lab([0; 3]), [0, neutral, neutral]), "{:?}", lab([0; 3]));
        let [l, a, b] = lab([0xE6, 0x9F, 0x00]).map(f64::from);
        let [l, a, b] = [l / 655.35, a / 257.0 - 128.0, b / 257.0 - 128.0];
        assert!((l - 71.0).abs() < 1.0 && (a - 18.0).abs() < 2.0 && (b - 75.0).abs() < 2.0, "{l} {a} {b}");
    }
}
