//! Where each class is in a slice: its connected components and their bounding box. Points and boxes both come
//! from these pixels, so a point always lies in its box.

use ndarray::{Array2, ArrayView2, Axis, s};

use crate::array::{Run, connected_runs};

/// Which connected components (8-connectivity) of a class are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Components {
    /// Components at least half as large as the largest one. Predictions have stray islands, but an organ may
    /// consist of two parts of similar size.
    Largest,
    /// All components, for label volumes.
    All,
}

/// A box in pixel indices, both corners inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelBox {
    /// First and last column.
    pub x: [usize; 2],
    /// First and last row.
    pub y: [usize; 2],
}

impl PixelBox {
    fn union(self, other: Self) -> Self {
        Self {
            x: [self.x[0].min(other.x[0]), self.x[1].max(other.x[1])],
            y: [self.y[0].min(other.y[0]), self.y[1].max(other.y[1])],
        }
    }

    /// `[height, width]`.
    pub fn size(self) -> [usize; 2] {
        [self.y[1] - self.y[0] + 1, self.x[1] - self.x[0] + 1]
    }
}

/// The kept pixels of one class, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// Their bounding box.
    pub bounds: PixelBox,
    /// Which pixels of the box belong to the region, `[height, width]` of the box.
    pub mask: Array2<bool>,
}

/// Size of a component, stored at the index of its first run.
#[derive(Clone, Copy, Default)]
struct Component {
    pixels: usize,
    bounds: Option<PixelBox>,
}

/// The region of each class below `classes` in `labels` `[H, W]`; `None` if a class is not in the slice. Labels
/// of `classes` and above are ignored.
pub fn class_regions(labels: ArrayView2<'_, u8>, classes: usize, keep: Components) -> Vec<Option<Region>> {
    let runs = connected_runs(labels.insert_axis(Axis(0)));
    let mut components = vec![Component::default(); runs.len()];
    let mut largest = vec![0; classes.max(usize::from(u8::MAX) + 1)];
    for run in &runs {
        let component = &mut components[run.component];
        let bounds = PixelBox { x: [run.first, run.last], y: [run.row[1]; 2] };
        component.pixels += run.length();
        component.bounds = Some(component.bounds.map_or(bounds, |others| others.union(bounds)));
        largest[usize::from(run.class)] = component.pixels.max(largest[usize::from(run.class)]);
    }
    let counts = |run: &Run| {
        keep == Components::All || 2 * components[run.component].pixels >= largest[usize::from(run.class)]
    };
    let region_of = |class: usize| {
        let of_class = || runs.iter().filter(|run| usize::from(run.class) == class && counts(run));
        let bounds = of_class().filter_map(|run| components[run.component].bounds).reduce(PixelBox::union)?;
        let mut mask = Array2::from_elem(bounds.size(), false);
        for run in of_class() {
            let columns = run.first - bounds.x[0]..=run.last - bounds.x[0];
            mask.slice_mut(s![run.row[1] - bounds.y[0], columns]).fill(true);
        }
        Some(Region { bounds, mask })
    };
    (0..classes).map(region_of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use image::{GrayImage, Luma};
    use imageproc::region_labelling::{Connectivity, connected_components};
    use ndarray::array;

    use super::*;

    #[test]
    fn islands_under_half_of_the_largest_do_not_widen_the_box() {
        let labels =
            array![[1u8, 1, 0, 0, 0, 1], [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0],];
        let bounds = |keep| class_regions(labels.view(), 2, keep)[1].as_ref().map(|region| region.bounds);
        assert_eq!(bounds(Components::Largest), Some(PixelBox { x: [0, 3], y: [0, 2] }));
        assert_eq!(bounds(Components::All), Some(PixelBox { x: [0, 5], y: [0, 2] }));
    }

    /// The kept pixels of a class, computed with `imageproc`'s connected components.
    fn expected_pixels(labels: &Array2<u8>, class: u8) -> Vec<(usize, usize)> {
        let (height, width) = labels.dim();
        let image = GrayImage::from_fn(width as u32, height as u32 + 1, |x, y| {
            Luma([u8::from(labels.get([y as usize, x as usize]) == Some(&class))])
        });
        let ids = connected_components(&image, Connectivity::Eight, Luma([0]));
        let id = |y: usize, x: usize| ids.get_pixel(x as u32, y as u32)[0];
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        for ((y, x), _) in labels.indexed_iter().filter(|&((y, x), _)| id(y, x) > 0) {
            *sizes.entry(id(y, x)).or_default() += 1;
        }
        let largest = sizes.values().max().copied().unwrap_or_default();
        let counts = |y, x| sizes.get(&id(y, x)).is_some_and(|&size| 2 * size >= largest);
        labels.indexed_iter().map(|(index, _)| index).filter(|&(y, x)| counts(y, x)).collect()
    }

    #[test]
    fn components_equal_those_of_imageproc() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let (size, classes) = ((1 + random(14) as usize, 1 + random(14) as usize), 2 + random(4));
            let labels = Array2::from_shape_simple_fn(size, || random(classes) as u8);
            let regions = class_regions(labels.view(), 6, Components::Largest);
            for (class, region) in regions.iter().enumerate() {
                let found = region.iter().flat_map(|Region { bounds, mask }| {
                    let set = mask.indexed_iter().filter(|&(_, &set)| set);
                    set.map(|((row, column), _)| (bounds.y[0] + row, bounds.x[0] + column))
                });
                assert_eq!(found.collect::<Vec<_>>(), expected_pixels(&labels, class as u8), "{labels}");
            }
        }
    }

    #[test]
    fn every_pixel_may_be_a_component_of_its_own() {
        let labels = Array2::from_shape_fn((4, 6), |(y, x)| (2 * (y % 2) + x % 2) as u8);
        let regions = class_regions(labels.view(), 4, Components::Largest);
        assert_eq!(
            regions
                .iter()
                .flatten()
                .map(|region| region.mask.iter().filter(|&&set| set).count())
                .sum::<usize>(),
            24
        );
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_connected() {
        let labels = array![[1u8, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]];
        let regions = class_regions(labels.view(), 3, Components::Largest);
        assert_eq!(regions[1].as_ref().map(|region| region.bounds), Some(PixelBox { x: [0, 2], y: [0, 2] }));
        assert_eq!(regions[2], None);
    }
}
