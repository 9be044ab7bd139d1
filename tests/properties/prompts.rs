//! Prompts of any masks: points lie in their masks, boxes contain them, absent classes have no prompts.

use ndarray::{Array2, Array3, ArrayView2, Axis, array};
use proptest::prelude::*;
use self_prompt_sam::bundle::{PointRule, PromptConfig};
use self_prompt_sam::prompt::{
    ConfiguredPrompts, LABEL_LOGIT, PromptError, PromptStrategy, SliceMasks, SlicePrompts, model_from_slice,
};

const RULES: [PointRule; 3] = [PointRule::DistanceTransform, PointRule::BoxCentre, PointRule::Random];

/// Prompts in pixels of the slice, so that they can be looked up in the mask.
fn strategy(point: Option<PointRule>) -> ConfiguredPrompts {
    ConfiguredPrompts {
        config: PromptConfig { point, boxes: true, mask: true },
        image_size: 1,
        mask_size: [8, 8],
    }
}

/// Prompts of labels at the slice's own size, which must be square.
fn oracle(labels: &Array2<u8>, classes: usize, rule: PointRule) -> SlicePrompts {
    let own_size = ConfiguredPrompts { image_size: labels.nrows() as i64, ..strategy(Some(rule)) };
    own_size.prompts(&SliceMasks::Labels { labels: labels.view(), classes }).unwrap()
}

/// Prompts of logits whose largest one at each pixel is that of its label's class.
fn predicted(labels: &Array2<u8>, classes: usize, rule: PointRule) -> SlicePrompts {
    let (height, width) = labels.dim();
    let logits = Array3::from_shape_fn((classes, height, width), |(class, y, x)| {
        f32::from(u8::from(usize::from(labels[[y, x]]) == class)) - 0.1 * class as f32
    });
    let own_size = ConfiguredPrompts { image_size: height as i64, ..strategy(Some(rule)) };
    own_size.prompts(&SliceMasks::Logits(logits.view())).unwrap()
}

fn points(prompts: &SlicePrompts) -> &[[f32; 2]] {
    prompts.points.as_deref().unwrap()
}

fn boxes(prompts: &SlicePrompts) -> &[[f32; 4]] {
    prompts.boxes.as_deref().unwrap()
}

fn disc(side: usize, centre: [f32; 2], radius: f32) -> Array2<bool> {
    Array2::from_shape_fn((side, side), |(y, x)| (x as f32 - centre[0]).hypot(y as f32 - centre[1]) <= radius)
}

fn labels_of(mask: &Array2<bool>) -> Array2<u8> {
    mask.mapv(u8::from)
}

/// Squared distance to the nearest pixel outside the mask or the image, by brute force.
fn depth(mask: ArrayView2<'_, bool>, [x, y]: [usize; 2]) -> i64 {
    let (height, width) = mask.dim();
    let inside = |row: i64, column: i64| {
        let index = (usize::try_from(row), usize::try_from(column));
        matches!(index, (Ok(row), Ok(column)) if mask.get([row, column]) == Some(&true))
    };
    (-1..=height as i64)
        .flat_map(|row| (-1..=width as i64).map(move |column| (row, column)))
        .filter(|&(row, column)| !inside(row, column))
        .map(|(row, column)| (row - y as i64).pow(2) + (column - x as i64).pow(2))
        .min()
        .unwrap()
}

fn any_labels() -> impl Strategy<Value = Array2<u8>> {
    (1usize..16, 1u8..=4).prop_flat_map(|(side, classes)| {
        let blobs = prop::collection::vec((0..side, 0..side, 0..side, 0..side, 0..classes), 0..8);
        (Just(side), blobs, prop::collection::vec((0..side, 0..side, 0..classes), 0..6)).prop_map(
            |(side, blobs, dots)| {
                let mut labels = Array2::zeros((side, side));
                for (x0, y0, x1, y1, class) in blobs {
                    let (rows, columns) = (y0.min(y1)..=y0.max(y1), x0.min(x1)..=x0.max(x1));
                    labels.slice_mut(ndarray::s![rows, columns]).fill(class);
                }
                for (x, y, class) in dots {
                    labels[[y, x]] = class;
                }
                labels
            },
        )
    })
}

proptest! {
    #[test]
    fn points_lie_inside_their_masks_and_boxes(labels in any_labels()) {
        for make in [oracle, predicted] {
            for rule in [PointRule::DistanceTransform, PointRule::Random] {
                let prompts = make(&labels, 4, rule);
                for class in (0..4).filter(|&class| prompts.labels[class] == 1.0) {
                    let [x, y] = points(&prompts)[class];
                    let [x0, y0, x1, y1] = boxes(&prompts)[class];
                    prop_assert_eq!((x.fract(), y.fract()), (0.0, 0.0));
                    prop_assert_eq!(usize::from(labels[[y as usize, x as usize]]), class);
                    prop_assert!(x0 <= x && x <= x1 && y0 <= y && y <= y1);
                }
            }
        }
    }

    #[test]
    fn label_boxes_are_the_smallest_that_hold_the_class(labels in any_labels()) {
        let prompts = oracle(&labels, 4, PointRule::BoxCentre);
        for class in 0..4 {
            let of_class = || labels.indexed_iter().filter(|&(_, &label)| usize::from(label) == class);
            let columns = || of_class().map(|((_, x), _)| x as f32);
            let rows = || of_class().map(|((y, _), _)| y as f32);
            let (low, high) = (f32::INFINITY, f32::NEG_INFINITY);
            let (expected, label) = if of_class().next().is_some() {
                let first = [columns().fold(low, f32::min), rows().fold(low, f32::min)];
                let last = [columns().fold(high, f32::max), rows().fold(high, f32::max)];
                ([first[0], first[1], last[0], last[1]], 1.0)
            } else {
                ([0.0; 4], -1.0)
            };
            let [x0, y0, x1, y1] = expected;
            prop_assert_eq!(boxes(&prompts)[class], expected);
            prop_assert_eq!(prompts.labels[class], label);
            prop_assert_eq!(points(&prompts)[class], [(x0 + x1) / 2.0, (y0 + y1) / 2.0]);
        }
    }

    #[test]
    fn the_distance_point_is_the_first_of_the_deepest(labels in any_labels()) {
        let prompts = oracle(&labels, 4, PointRule::DistanceTransform);
        for class in 0..4u8 {
            let mask = labels.mapv(|label| label == class);
            let depth_of = |y, x| depth(mask.view(), [x, y]);
            let pixels = || mask.indexed_iter().filter(|&(_, &inside)| inside).map(|(index, _)| index);
            let Some(deepest) = pixels().map(|(y, x)| depth_of(y, x)).max() else { continue };
            let first = pixels().find(|&(y, x)| depth_of(y, x) == deepest);
            let [x, y] = points(&prompts)[usize::from(class)];
            prop_assert_eq!(Some((y as usize, x as usize)), first);
        }
    }

    #[test]
    fn there_and_back_a_pixel_is_where_it_was(x in 0f32..512.0, y in 0f32..512.0, side in 1usize..600, to in 1usize..1100) {
        let there = model_from_slice([x, y], [side, side], to as i64);
        let [back_x, back_y] = model_from_slice(there, [to, to], side as i64);
        // Single precision resolves half a pixel of the small side to 1e-7 of the larger side.
        prop_assert!((back_x - x).abs() < 1e-3 && (back_y - y).abs() < 1e-3, "{back_x} {back_y}");
        prop_assert_eq!(model_from_slice([x.trunc(), y.trunc()], [to, to], to as i64), [x.trunc(), y.trunc()]);
    }
}

#[test]
fn an_absent_class_has_no_point_and_keeps_its_mask_logits() {
    let labels = Array2::zeros((8, 8));
    let prompts = oracle(&labels, 2, PointRule::DistanceTransform);
    assert_eq!(prompts.labels, [1.0, -1.0]);
    assert_eq!((points(&prompts)[1], boxes(&prompts)[1]), ([0.0; 2], [0.0; 4]));
    let masks = prompts.masks.unwrap();
    assert!(masks.index_axis(Axis(0), 0).iter().all(|&logit| logit == LABEL_LOGIT));
    assert!(masks.index_axis(Axis(0), 1).iter().all(|&logit| logit == -LABEL_LOGIT));

    let mut logits = Array3::from_elem((2, 8, 8), 3.0f32);
    logits.index_axis_mut(Axis(0), 1).fill(-2.5);
    let prompts = strategy(None).prompts(&SliceMasks::Logits(logits.view())).unwrap();
    assert_eq!((&prompts.labels[..], prompts.points), (&[1.0, -1.0][..], None));
    assert_eq!(prompts.masks.unwrap(), logits);
}

#[test]
fn a_full_mask_is_prompted_at_its_centre_and_corners() {
    let labels = Array2::from_elem((9, 9), 1u8);
    let prompts = predicted(&labels, 2, PointRule::DistanceTransform);
    assert_eq!(prompts.labels, [-1.0, 1.0]);
    assert_eq!((points(&prompts)[1], boxes(&prompts)[1]), ([4.0, 4.0], [0.0, 0.0, 8.0, 8.0]));
}

#[test]
fn a_single_pixel_is_point_and_box_at_once() {
    for [x, y] in [[0usize, 0], [8, 3], [4, 4], [8, 8]] {
        let mut labels = Array2::zeros((9, 9));
        labels[[y, x]] = 1;
        for rule in RULES {
            let prompts = predicted(&labels, 2, rule);
            let [x, y] = [x as f32, y as f32];
            assert_eq!((points(&prompts)[1], boxes(&prompts)[1]), ([x, y], [x, y, x, y]));
        }
    }
}

#[test]
fn in_a_ring_the_distance_point_is_on_the_ring_and_the_box_centre_is_not() {
    let ring = &disc(41, [20.0, 20.0], 18.0) & !&disc(41, [20.0, 20.0], 9.0);
    let on_ring = |rule| {
        let [x, y] = points(&predicted(&labels_of(&ring), 2, rule))[1];
        ring[[y as usize, x as usize]]
    };
    assert!(on_ring(PointRule::DistanceTransform) && on_ring(PointRule::Random));
    assert!(!on_ring(PointRule::BoxCentre));
}

#[test]
fn a_mask_cut_by_the_edge_is_not_prompted_at_the_edge() {
    let prompts = predicted(&labels_of(&disc(31, [0.0, 15.0], 12.0)), 2, PointRule::DistanceTransform);
    let [x, y] = points(&prompts)[1];
    assert!((4.0..8.0).contains(&x) && y == 15.0, "{x} {y}");
    assert_eq!(boxes(&prompts)[1], [0.0, 3.0, 12.0, 27.0]);
}

#[test]
fn a_small_island_moves_neither_point_nor_box_of_a_prediction_but_the_box_of_a_label() {
    // The island has the pixel farthest from its border, but less than half of the bar's pixels.
    let mut labels = Array2::zeros((32, 32));
    labels.slice_mut(ndarray::s![2..4, 0..32]).fill(1u8);
    labels.slice_mut(ndarray::s![20..25, 10..15]).fill(1);
    let prompts = predicted(&labels, 2, PointRule::DistanceTransform);
    assert_eq!((points(&prompts)[1], boxes(&prompts)[1]), ([0.0, 2.0], [0.0, 2.0, 31.0, 3.0]));
    let prompts = oracle(&labels, 2, PointRule::DistanceTransform);
    assert_eq!((points(&prompts)[1], boxes(&prompts)[1]), ([12.0, 22.0], [0.0, 2.0, 31.0, 24.0]));
}

#[test]
fn each_combination_gives_what_it_names() {
    let labels = labels_of(&disc(16, [7.0, 8.0], 5.0));
    let masks = SliceMasks::Labels { labels: labels.view(), classes: 2 };
    for point in [None, Some(RULES[0]), Some(RULES[1]), Some(RULES[2])] {
        for (boxes, mask) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = PromptConfig { point, boxes, mask };
            let strategy = ConfiguredPrompts { config, image_size: 64, mask_size: [8, 12] };
            let prompts = strategy.prompts(&masks).unwrap();
            assert_eq!(prompts.labels, [1.0, 1.0]);
            assert_eq!(prompts.points.map(|points| points.len()), point.map(|_| 2));
            assert_eq!(prompts.boxes.map(|boxes| boxes.len()), boxes.then_some(2));
            assert_eq!(prompts.masks.map(|masks| masks.dim()), mask.then_some((2, 8, 12)));
        }
    }
}

#[test]
fn a_slice_that_is_not_the_model_input_is_scaled_along_each_axis() {
    let mut labels = Array2::zeros((4, 8));
    labels[[1, 6]] = 1u8;
    let strategy = ConfiguredPrompts { image_size: 16, ..strategy(Some(PointRule::DistanceTransform)) };
    let prompts = strategy.prompts(&SliceMasks::Labels { labels: labels.view(), classes: 2 }).unwrap();
    assert_eq!(points(&prompts)[1], [12.5, 5.5]);
    assert_eq!(boxes(&prompts)[1], [12.5, 5.5, 12.5, 5.5]);
}

#[test]
fn random_points_depend_on_the_mask_alone() {
    let mask = labels_of(&disc(33, [16.0, 16.0], 14.0));
    let point = |labels: &Array2<u8>| points(&oracle(labels, 3, PointRule::Random))[1];
    let mut with_another_class = mask.clone();
    with_another_class[[0, 0]] = 2;
    assert_eq!(point(&mask), point(&with_another_class));
    let radii = (2..14).map(|radius| point(&labels_of(&disc(33, [16.0, 16.0], radius as f32))));
    let distinct: std::collections::BTreeSet<[u32; 2]> = radii.map(|point| point.map(f32::to_bits)).collect();
    assert!(distinct.len() > 8, "{distinct:?}");
}

#[test]
fn masks_that_cannot_be_used_are_refused() {
    let logits = |value| {
        let mut logits = Array3::zeros((2, 3, 4));
        logits[[1, 2, 0]] = value;
        strategy(None).prompts(&SliceMasks::Logits(logits.view()))
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = logits(value).unwrap_err().to_string();
        assert!(error.contains("class 1") && error.contains("x 0, y 2"), "{error}");
    }
    let labels = array![[0u8, 5]];
    let of_labels = |classes| strategy(None).prompts(&SliceMasks::Labels { labels: labels.view(), classes });
    assert_eq!(of_labels(5).unwrap_err(), PromptError::UnknownLabel { label: 5, x: 1, y: 0, classes: 5 });
    assert_eq!(of_labels(0).unwrap_err(), PromptError::Shape { shape: [0, 1, 2] });
    let empty = Array3::zeros((2, 0, 4));
    let result = strategy(None).prompts(&SliceMasks::Logits(empty.view()));
    assert_eq!(result.unwrap_err(), PromptError::Shape { shape: [2, 0, 4] });
    let without_size = ConfiguredPrompts { image_size: 0, ..strategy(None) };
    let masks = SliceMasks::Labels { labels: labels.view(), classes: 6 };
    assert!(matches!(without_size.prompts(&masks), Err(PromptError::Size { .. })));
}
