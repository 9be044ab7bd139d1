//! Colours of the classes: the seven hues of Okabe and Ito ("Color Universal Design", 2008), then nine more. Each of
//! these is the sRGB colour farthest (CIELAB) from all before it for normal, protan and deutan vision (Machado et
//! al. 2009), without greys and dark colours, so that all stand out on a grey image.

/// Colours of classes 1, 2, …, sRGB.
pub const CLASS_COLOURS: [[u8; 3]; 16] = [
    [0xE6, 0x9F, 0x00],
    [0x56, 0xB4, 0xE9],
    [0x00, 0x9E, 0x73],
    [0xF0, 0xE4, 0x42],
    [0xD5, 0x5E, 0x00],
    [0xCC, 0x79, 0xA7],
    [0x00, 0x72, 0xB2],
    [0x5A, 0x2D, 0xFF],
    [0x96, 0xFF, 0xA5],
    [0x5A, 0x78, 0xFF],
    [0xA5, 0xFF, 0xF0],
    [0xB4, 0x2D, 0x2D],
    [0x96, 0xB4, 0x5A],
    [0xA5, 0xFF, 0x78],
    [0x96, 0xD2, 0xA5],
    [0x87, 0x4B, 0x78],
];

/// Colour of a class; colours repeat after the sixteenth. The background (0) has none.
pub fn class_colour(class: usize) -> Option<[u8; 3]> {
    let index = class.checked_sub(1)?;
    CLASS_COLOURS.get(index % CLASS_COLOURS.len()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Matrix = [[f64; 3]; 3];
    const NORMAL: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    const PROTANOPIA: Matrix =
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]];
    const DEUTERANOPIA: Matrix =
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]];
    const XYZ_FROM_SRGB: Matrix = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ];

    fn times(matrix: &Matrix, v: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
    }

    fn lab(colour: [u8; 3], vision: &Matrix) -> [f64; 3] {
        let linear = colour.map(|value| {
            let c = f64::from(value) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        });
        let seen = times(vision, linear).map(|c| c.clamp(0.0, 1.0));
        let [x, y, z] = times(&XYZ_FROM_SRGB, seen);
        let [fx, fy, fz] = [x / 0.95047, y, z / 1.08883]
            .map(|t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
        [116.0 * fy - 16.0, 500.0 * (fx - fy), 200.0 * (fy - fz)]
    }

    #[test]
    fn colours_differ_for_people_with_and_without_red_green_blindness() {
        for vision in [NORMAL, PROTANOPIA, DEUTERANOPIA] {
            let seen = CLASS_COLOURS.map(|colour| lab(colour, &vision));
            for (index, a) in seen.iter().enumerate() {
                for b in &seen[..index] {
                    let distance = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(distance > 15.0, "class {}: {a:?} {b:?}", index + 1);
                }
            }
        }
    }

    #[test]
    fn colours_are_neither_grey_nor_dark() {
        for colour in CLASS_COLOURS {
            let [lightness, a, b] = lab(colour, &NORMAL);
            assert!(lightness > 35.0 && a.hypot(b) > 25.0, "{colour:?}");
        }
    }

    #[test]
    fn the_background_has_no_colour_and_every_class_has_one() {
        assert_eq!(class_colour(0), None);
        assert_eq!(class_colour(1), Some(CLASS_COLOURS[0]));
        assert_eq!(class_colour(17), Some(CLASS_COLOURS[0]));
        assert!((1..=255).all(|class| class_colour(class).is_some()));
    }
}
