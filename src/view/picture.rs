//! An image as it is kept: 16 bits a pixel between its lowest and highest intensity.

/// An image of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub rows: usize,
    pub columns: usize,
    /// Intensity of the value 0, and the difference of two values.
    low: f32,
    step: f32,
    /// Row by row from the first.
    values: Vec<u16>,
}

impl Picture {
    /// From intensities `[rows, columns]`; those that are not finite become the lowest. `None` if their number is wrong.
    pub fn new(rows: usize, columns: usize, pixels: &[f32]) -> Option<Self> {
        if rows.checked_mul(columns) != Some(pixels.len()) {
            return None;
        }
        let finite = || pixels.iter().copied().filter(|value| value.is_finite());
        let low = finite().fold(f32::INFINITY, f32::min);
        let high = finite().fold(f32::NEG_INFINITY, f32::max);
        let (low, high) = if low <= high { (low, high) } else { (0.0, 0.0) };
        let range = f64::from(high) - f64::from(low);
        let step = range / f64::from(u16::MAX);
        let value = |pixel: f32| match pixel.is_finite() && step > 0.0 {
            true => ((f64::from(pixel) - f64::from(low)) / step).round() as u16,
            false => 0,
        };
        let values = pixels.iter().map(|&pixel| value(pixel)).collect();
        Some(Self { rows, columns, low, step: step as f32, values })
    }

    /// Memory of a picture of so many pixels.
    pub fn bytes(pixels: usize) -> usize {
        pixels.saturating_mul(2)
    }

    /// The pixels as 8 bits between the ends of a window, row by row.
    pub fn windowed(&self, [low, high]: [f32; 2]) -> impl Iterator<Item = u8> + '_ {
        let scale = 255.0 / (f64::from(high) - f64::from(low)).max(f64::MIN_POSITIVE);
        let (offset, step) = ((f64::from(self.low) - f64::from(low)) * scale, f64::from(self.step) * scale);
        self.values.iter().map(move |&value| (f64::from(value) * step + offset).round() as u8) // saturates
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn grey_values_are_those_of_the_intensities(
            pixels in prop::collection::vec(-2000.0f32..4000.0, 12),
            low in -1000.0f32..1000.0,
            width in 1.0f32..3000.0,
        ) {
            let picture = Picture::new(3, 4, &pixels).unwrap();
            for (grey, pixel) in picture.windowed([low, low + width]).zip(pixels) {
                let exact = ((pixel - low) / width * 255.0).clamp(0.0, 255.0);
                // Half a grey value, and half of one of 65536 steps of at most 6000.
                prop_assert!((f32::from(grey) - exact).abs() <= 0.5 + 0.05 * 255.0 / width + 1e-2, "{grey} {exact}");
            }
        }

        #[test]
        fn any_intensities_make_a_picture(pixels in prop::collection::vec(prop::num::f32::ANY, 6)) {
            let picture = Picture::new(2, 3, &pixels).unwrap();
            prop_assert_eq!(picture.windowed([0.0, 1.0]).count(), 6);
            prop_assert!(Picture::new(2, 4, &pixels).is_none());
        }
    }
}
