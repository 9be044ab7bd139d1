//! Provisional cases: the newest images of a series with their neighbours, unmirrored, where the organ can be.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::image::Image;
use super::stack::Stack;
use crate::bundle::{BundleConfig, LargestComponent, Plane};
use crate::message::control::{LiveCase, LiveImage};
use crate::runtime::clock::now_ns;
use crate::volume::{BoxMm, CaseFiles, CasePlan, Grid, PreparedCase, Regrid};

/// Distance from the last mask within which an organ is looked for, mm.
const MARGIN_MM: f64 = 20.0;
/// Most windows of a provisional case: it goes before all others, and must not hold them up for long.
const MOST_WINDOWS: usize = 1024;

/// What provisional cases are made from.
#[derive(Debug)]
pub(super) struct Request {
    pub series_id: String,
    pub revision: i64,
    /// Beginning of the names of the cases.
    pub name: String,
    /// All images so far.
    pub images: Vec<Arc<Image>>,
    /// Indices of those that have no mask yet.
    pub new: BTreeSet<i64>,
    /// Columns and rows of the last masks, `[first, end]` each; `None` = look everywhere.
    pub bounds: Option<[[usize; 2]; 2]>,
}

/// A provisional case.
#[derive(Debug)]
pub(super) enum Provisional {
    /// Windows to segment.
    Case(Box<(CasePlan, PreparedCase)>, LiveCase),
    /// All of it lies outside the region of interest.
    Background(String, LiveCase),
    /// No case can be made: one line saying why.
    Impossible(String),
}

/// The model as it is used for provisional cases.
pub(super) fn provisional_model(config: &BundleConfig) -> BundleConfig {
    let mut config = config.clone();
    config.patch.mirror = [false; 3];
    config.patch.depth_overlap = 0.0;
    config.patch.plane_overlap = 0.0;
    // Parts of an organ that are connected elsewhere.
    config.largest_component = LargestComponent::default();
    config
}

/// The cases that show every new image once. Images of different kinds or directions belong to different cases.
pub(super) fn provisional(
    request: &Request,
    model: &BundleConfig,
    region: Option<&BoxMm>,
) -> Vec<Provisional> {
    let mut new = request.new.clone();
    let mut cases = Vec::new();
    while let Some(newest) = new.last().copied() {
        let Some(anchor) = request.images.iter().find(|image| image.frame.index == newest) else {
            new.remove(&newest);
            continue;
        };
        let stack = Stack::around(anchor, &request.images);
        let positions = stack.positions(&new);
        positions.iter().for_each(|&position| {
            new.remove(&stack.images()[position].frame.index);
        });
        let name = format!("{} {}", request.name, cases.len());
        cases.push(case(request, &name, &stack, &positions, model, region));
    }
    cases
}

fn case(
    request: &Request,
    name: &str,
    stack: &Stack,
    new: &[usize],
    model: &BundleConfig,
    region: Option<&BoxMm>,
) -> Provisional {
    let (shape, affine) = stack.geometry(0..stack.len());
    let whole = Grid::new(shape, affine, model.slice_axis);
    // Slices of the model along the images of the series: neighbours in time are neighbours in space.
    let is_along = whole.axes[0] == 2;
    let range = if is_along { stack.range_with(new, context(model, stack)) } else { 0..stack.len() };
    let (shape, affine) = stack.geometry(range.clone());
    let grid = Grid::new(shape, affine, model.slice_axis);
    let in_region = match region {
        Some(region) => grid.cropped(region),
        None => Some(grid),
    };
    let live = |is_inside: bool| live_case(request, stack, new, range.start, is_inside);
    let Some(grid) = in_region else { return Provisional::Background(name.into(), live(false)) };
    let grid = match request.bounds {
        Some(bounds) if is_along && matches!(model.patch.plane, Plane::Window(_)) => near(&grid, bounds),
        _ => grid,
    };
    let rescaling = stack.rescaling(&model.normalisation, region, &whole);
    let images = stack.network_images(range.clone(), &grid, &rescaling);
    let files = CaseFiles { case_id: name.into(), images: Vec::new(), labels: None };
    match CasePlan::on_grid(&files, grid, model, Regrid::Refuse) {
        Ok(plan) if plan.windows().len() > MOST_WINDOWS => {
            Provisional::Impossible(format!("{name}: {} windows are too many", plan.windows().len()))
        }
        Ok(plan) => {
            let prepared = PreparedCase::of_images(&plan, model, images);
            Provisional::Case(Box::new((plan, prepared)), live(true))
        }
        Err(reason) => Provisional::Impossible(format!("{name}: {reason}")),
    }
}

/// Number of images that fill a window of the network.
fn context(model: &BundleConfig, stack: &Stack) -> usize {
    let spacing = stack.spacing_mm();
    let depth_mm = model.patch.depth as f64 * model.spacing_mm.map_or(spacing, |[slice, ..]| slice);
    ((depth_mm / spacing).floor() as usize).clamp(1, model.patch.depth.max(1))
}

/// The grid within a margin around columns and rows.
fn near(grid: &Grid, bounds: [[usize; 2]; 2]) -> Grid {
    let spacing = |stored: usize| {
        let axis = grid.axes.iter().position(|&axis| axis == stored).unwrap_or(0);
        grid.spacing_mm[axis]
    };
    let [columns, rows] = [0, 1].map(|stored| {
        let margin = (MARGIN_MM / spacing(stored)).ceil() as usize;
        let [first, end] = bounds[stored];
        [first.saturating_sub(margin), (end + margin).min(grid.original_shape[stored])]
    });
    grid.cropped_to([columns, rows, [0, grid.original_shape[2]]]).unwrap_or_else(|| grid.clone())
}

fn live_case(request: &Request, stack: &Stack, new: &[usize], start: usize, is_inside: bool) -> LiveCase {
    let first = &stack.images()[0].frame.placement;
    let image = |&position: &usize| {
        let image = &stack.images()[position];
        LiveImage {
            index: image.frame.index,
            slice: is_inside.then(|| position - start),
            received_ns: image.frame.received_ns,
            arrived_ns: image.arrived_ns,
        }
    };
    LiveCase {
        series_id: request.series_id.clone(),
        revision: request.revision,
        provisional: true,
        shape: [first.rows, first.columns],
        images: new.iter().map(image).collect(),
        planned_ns: now_ns(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::{Kind, Placement};
    use crate::message::live::Frame;
    use crate::volume::Rescaling;

    const MODEL: &str = "
name: made
classes: [background, organ]
modalities: [MR]
spacing_mm: [2.0, 1.0, 1.0]
patch: { depth: 4, plane: { window: [16, 16] } }
normalisation: z_score
network: { backbone: lite_medsam, image_size: 64 }
weights: { file: weights.pth, sha256: '0' }
";

    fn model() -> BundleConfig {
        provisional_model(&serde_yaml::from_str(MODEL).unwrap())
    }

    /// The image number `index` at `place` mm: its values are its number, but for a pixel.
    fn image(index: i64, place: f64, kind: Kind) -> Arc<Image> {
        let placement = Placement {
            rows: 40,
            columns: 32,
            position: [5.0, -3.0, place],
            orientation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            pixel_spacing: [1.0, 1.0],
            thickness: 2.0,
            kind,
        };
        let mut pixels = vec![index as f32; 40 * 32];
        pixels[0] = 100.0;
        let frame = Frame { series_id: "a".into(), revision: 0, index, received_ns: 0, placement };
        Arc::new(Image { frame, arrived_ns: 0, pixels })
    }

    fn request(images: Vec<Arc<Image>>, new: &[i64], bounds: Option<[[usize; 2]; 2]>) -> Request {
        Request {
            series_id: "a".into(),
            revision: 0,
            name: "a".into(),
            images,
            new: new.iter().copied().collect(),
            bounds,
        }
    }

    /// Number of windows, images with their slices, and number of slices.
    type Made = (usize, Vec<(i64, Option<usize>)>, usize);

    /// The cases of a request.
    fn made(request: &Request, region: Option<&BoxMm>) -> Vec<Made> {
        let cases = provisional(request, &model(), region);
        let images = |live: &LiveCase| live.images.iter().map(|image| (image.index, image.slice)).collect();
        cases
            .iter()
            .map(|case| match case {
                Provisional::Case(case, live) => {
                    (case.0.windows().len(), images(live), case.0.grid.original_shape[2])
                }
                Provisional::Background(_, live) => (0, images(live), 0),
                Provisional::Impossible(error) => panic!("{error}"),
            })
            .collect()
    }

    fn series(count: i64, place: impl Fn(i64) -> f64) -> Vec<Arc<Image>> {
        (0..count).map(|index| image(index, place(index), Kind::default())).collect()
    }

    #[test]
    fn the_newest_image_has_its_neighbours_in_both_directions_of_a_scan() {
        // 40 x 32 pixels need 3 x 2 windows of 16 x 16 without overlap; 4 images fill one in depth.
        let up = made(&request(series(10, |index| 2.0 * index as f64), &[9], None), None);
        assert_eq!(up, [(6, vec![(9, Some(3))], 4)]);
        let down = made(&request(series(10, |index| -2.0 * index as f64), &[9], None), None);
        assert_eq!(down, [(6, vec![(9, Some(0))], 4)]);
        let first = made(&request(series(1, |_| 0.0), &[0], None), None);
        assert_eq!(first, [(6, vec![(0, Some(0))], 1)]);
    }

    #[test]
    fn images_that_came_while_others_were_computed_are_taken_together() {
        let together = made(&request(series(10, |index| 2.0 * index as f64), &[2, 7, 8, 9], None), None);
        assert_eq!(together, [(12, vec![(2, Some(0)), (7, Some(5)), (8, Some(6)), (9, Some(7))], 8)]);
    }

    #[test]
    fn echoes_and_phases_and_repeated_places_belong_to_their_own_cases() {
        let echo = |index: i64| Kind { echo_time: Some((index % 2) as f64), ..Kind::default() };
        let images = (0..8).map(|index| image(index, 2.0 * (index / 2) as f64, echo(index))).collect();
        let cases = made(&request(images, &[6, 7], None), None);
        assert_eq!(cases, [(6, vec![(7, Some(3))], 4), (6, vec![(6, Some(3))], 4)]);
        // Phases of a heart beat: three at each place, at about the same times.
        let phase =
            |index: i64| Kind { trigger_time: Some((100 * (index % 3) + index) as f64), ..Kind::default() };
        let images: Vec<_> =
            (0..9).map(|index| image(index, 2.0 * (index / 3) as f64, phase(index))).collect();
        let stack = Stack::around(&images[7], &images);
        let indices: Vec<i64> = stack.images().iter().map(|image| image.frame.index).collect();
        assert_eq!(indices, [1, 4, 7]);
        // The same place twice, and nothing distinguishes the images: each gets a mask.
        let images = vec![image(0, 0.0, Kind::default()), image(1, 0.0, Kind::default())];
        assert_eq!(made(&request(images, &[0, 1], None), None).len(), 2);
    }

    #[test]
    fn windows_lie_where_the_organ_can_be() {
        let images = series(4, |index| 2.0 * index as f64);
        // 20 mm around a pixel at the corner leave 21 of 32 columns and 21 of 40 rows.
        let near = made(&request(images.clone(), &[3], Some([[0, 1], [0, 1]])), None);
        assert_eq!(near, [(4, vec![(3, Some(3))], 4)]);
        let region = [[-20.0, -20.0, 5.5], [-10.0, -10.0, 6.5]];
        let inside = made(&request(images.clone(), &[3], None), Some(&region));
        assert_eq!(inside, [(1, vec![(3, Some(3))], 4)]);
        let elsewhere = [[-20.0, -20.0, 50.0], [-10.0, -10.0, 60.0]];
        assert_eq!(made(&request(images, &[3], None), Some(&elsewhere)), [(0, vec![(3, None)], 0)]);
    }

    #[test]
    fn intensities_are_normalised_with_the_statistics_so_far_and_rows_are_those_of_the_volume() {
        let images = series(2, |index| 2.0 * index as f64);
        let cases = provisional(&request(images.clone(), &[1], None), &model(), None);
        let [Provisional::Case(case, _)] = cases.as_slice() else { panic!("{cases:?}") };
        let values: Vec<f32> = images.iter().flat_map(|image| image.pixels.iter().copied()).collect();
        let rescaling = Rescaling::of(&values, &model().normalisation);
        let mut expected = [0.0, 1.0, 100.0];
        rescaling.apply(&mut expected);
        // The network's rows run from back to front and its columns from left to right: the first pixel of an image (right,
        // front) is its last.
        let window = case.1.window(case.0.windows().len() - 1);
        let (start, [_, rows, columns]) =
            (case.0.windows()[case.0.windows().len() - 1], case.0.network_shape);
        let corner = window[[0, 0, rows - 1 - start[1], columns - 1 - start[2]]];
        assert_eq!(corner, expected[2]);
        assert_eq!(window[[0, 0, 0, 0]], expected[0]);
    }
}
