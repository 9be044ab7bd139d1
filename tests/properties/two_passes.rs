//! Cases in two passes: the second covers what the first has found, and gives there what one pass over everything gives.

use proptest::prelude::*;
use self_prompt_sam::bundle::{Locate, Plane};
use self_prompt_sam::volume::{CasePlan, PreparedCase, foreground_box};

use crate::volumes::{Nifti, case, config, identity_segmentation};

/// A volume with a block of class 1 or 2 that has `side` voxels along each axis, and its labels in the same file.
fn block(folder: &std::path::Path, shape: [usize; 3], first: [usize; 3], side: usize) -> std::path::PathBuf {
    let [x_side, y_side, _] = shape;
    let value = |index: usize| {
        let place = [index % x_side, index / x_side % y_side, index / (x_side * y_side)];
        let inside = |axis: usize| (first[axis]..first[axis] + side).contains(&place[axis]);
        if (0..3).all(inside) { 1 + (place[0] % 2) as u8 } else { 0 }
    };
    let voxels = (0..shape.iter().product::<usize>()).map(value).collect();
    let file = Nifti::u8(&shape.map(|side| side as i16), voxels).spaced([1.0, 1.0, 2.0]);
    file.write(&folder.join("image.nii"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_passes_together_give_what_one_pass_gives(
        shape in prop::array::uniform3(8usize..40), place in prop::array::uniform3(0.0f64..1.0), side in 1usize..8,
        scale in prop::option::of(0.7f64..1.5), mirror in any::<[bool; 3]>(), overlap in 0.0f64..0.5,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let first = [0, 1, 2].map(|axis| (place[axis] * (shape[axis] - side) as f64) as usize);
        let image = block(folder.path(), shape, first, side);
        let mut config = config(1, Plane::Window([9, 10]), 4);
        config.spacing_mm = scale.map(|scale| [2.0, scale, scale]);
        config.patch.mirror = mirror;
        config.patch.locate = Some(Locate { overlap, margin_mm: 4.0 });
        let plan = CasePlan::new(&case(&image, Some(&image)), &config, None).unwrap();
        let prepared = PreparedCase::open(&plan, &config).unwrap();
        let everywhere = identity_segmentation(&plan, &prepared, 3);
        let Some(search) = plan.search() else {
            let [_, rows, columns] = plan.network_shape;
            prop_assert!(rows <= 9 && columns <= 10);
            return Ok(());
        };
        prop_assert_eq!(search.mirror, [false; 3]);
        prop_assert!(search.windows().len() <= plan.windows().len());
        prop_assert!(search.search().is_none());
        let prepared = prepared.with_plan(search.clone());
        let found = foreground_box(identity_segmentation(&search, &prepared, 3).view());
        let second = plan.around(found);
        prop_assert!(second.search().is_none());
        prop_assert!(second.windows().len() <= plan.windows().len());
        let sent: CasePlan = serde_json::from_str(&serde_json::to_string(&second).unwrap()).unwrap();
        prop_assert_eq!(&sent, &second);
        let prepared = prepared.with_plan(second.clone());
        let around = identity_segmentation(&second, &prepared, 3);
        if scale.is_none() {
            prop_assert_eq!(around, everywhere);
        } else {
            // Between two samples of different classes, rounding decides.
            let ends = [&around, &everywhere].map(|labels| foreground_box(labels.view()).unwrap_or_default());
            for (found, expected) in ends[0].iter().flatten().zip(ends[1].iter().flatten()) {
                prop_assert!(found.abs_diff(*expected) <= 1, "{:?}", ends);
            }
        }
    }
}

#[test]
fn few_windows_lie_around_a_small_organ_and_all_where_nothing_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let image = block(folder.path(), [100, 90, 20], [60, 50, 8], 4);
    let mut config = config(1, Plane::Window([32, 32]), 8);
    config.patch.mirror = [false, true, true];
    let once = CasePlan::new(&case(&image, None), &config, None).unwrap();
    assert!(once.search().is_none());
    config.patch.locate = Some(Locate::default());
    let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
    let found = Some([[60, 64], [50, 54], [8, 12]]);
    // 44 rows and columns in steps of 16 and 32 slices of 2 mm in steps of 4: 2 × 2 × 3 windows, each 4 times.
    let second = plan.around(found);
    let part = second.part.unwrap();
    assert_eq!(part.map(|[first, end]| end - first), [20, 44, 44]);
    assert_eq!(second.windows().len(), 4 * 4 * 2 * 2);
    assert_eq!(plan.search().unwrap().windows().len(), 3 * 4 * 4);
    assert_eq!(plan.around(None).windows(), once.windows());
    // 96 x 96 pixels show a whole slice: one pass.
    config.patch.plane = Plane::Window([100, 100]);
    assert!(CasePlan::new(&case(&image, None), &config, None).unwrap().search().is_none());
}
