//! The grey window of a series: percentiles of its intensities so far.

/// Most intensities that are kept.
const MOST: usize = 1 << 14;
/// About as many are taken from each image.
const OF_IMAGE: usize = 1 << 10;
/// The window's ends, as fractions of the intensities.
const ENDS: [f64; 2] = [0.005, 0.995];

/// Intensities of a series, evenly thinned out as it grows.
#[derive(Debug, Clone)]
pub struct RunningWindow {
    kept: Vec<f32>,
    /// One of so many is kept.
    every: usize,
    seen: usize,
}

impl Default for RunningWindow {
    fn default() -> Self {
        Self { kept: Vec::new(), every: 1, seen: 0 }
    }
}

impl RunningWindow {
    /// Takes the intensities of an image into account; those that are not finite are left out.
    pub fn add(&mut self, pixels: &[f32]) {
        // An odd step meets all columns of images whose width is a power of two.
        let step = (pixels.len() / OF_IMAGE) | 1;
        for &value in pixels.iter().step_by(step).filter(|value| value.is_finite()) {
            if self.seen.is_multiple_of(self.every) {
                self.kept.push(value);
            }
            self.seen += 1;
            if self.kept.len() == MOST {
                let mut place = 0;
                self.kept.retain(|_| {
                    place += 1;
                    place % 2 == 1
                });
                self.every *= 2;
            }
        }
    }

    /// Lowest and highest intensity of the window, in the unit of the images; the highest is larger.
    pub fn range(&self) -> [f32; 2] {
        let mut kept = self.kept.clone();
        let last = kept.len().saturating_sub(1) as f64;
        let mut end = |fraction: f64| match kept.as_mut_slice() {
            [] => 0.0,
            kept => *kept.select_nth_unstable_by((last * fraction).round() as usize, f32::total_cmp).1,
        };
        let [low, high] = ENDS.map(&mut end);
        match high - low {
            width if width.is_finite() && width > 0.0 => [low, high],
            _ => [low, low + low.abs().max(1.0)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_that_of_all_images_so_far_and_memory_does_not_grow() {
        let mut window = RunningWindow::default();
        for image in 0..200 {
            // The intensities 0 to 99, in another order in each image.
            let pixels: Vec<f32> = (0..64 * 64).map(|pixel| ((pixel * 37 + image) % 100) as f32).collect();
            window.add(&pixels);
            assert!(window.kept.len() < MOST);
        }
        let [low, high] = window.range();
        assert!(low <= 1.0 && high >= 98.0, "{low} {high}");
    }

    #[test]
    fn a_window_is_never_empty() {
        for pixels in [vec![], vec![5.0; 9], vec![f32::NAN, f32::INFINITY], vec![f32::MAX, f32::MIN]] {
            let mut window = RunningWindow::default();
            window.add(&pixels);
            let [low, high] = window.range();
            assert!(low.is_finite() && high.is_finite() && low < high, "{pixels:?}: {low} {high}");
        }
    }
}
