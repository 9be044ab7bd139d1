//! Volumes of every type and orientation, written and judged by nibabel; resizing judged by torch.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::path::Path;

use ndarray::{Array3, Array4, Axis};
use self_prompt_sam::bundle::{Normalisation, Plane, SliceAxis};
use self_prompt_sam::volume::{CasePlan, ClassTable, Grid, Image, PreparedCase, read_labels, write_labels};

use crate::volumes::{Nifti, case, config, identity_segmentation, python, read_f32};

#[derive(serde::Deserialize)]
struct Volume {
    name: String,
    image: String,
    labels: String,
    result: String,
    canonical: String,
    slice_axis: SliceAxis,
    canonical_shape: [usize; 4],
    spacing_mm: [f64; 3],
}

fn volumes_of_nibabel(folder: &Path) -> Vec<Volume> {
    python("make_volumes.py", folder).unwrap();
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn voxels_and_orientation_are_those_of_nibabel() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = volumes_of_nibabel(folder.path());
    assert!(volumes.len() >= 30);
    for volume in &volumes {
        let image = Image::read(&folder.path().join(&volume.image)).unwrap();
        let grid = Grid::new(image.header.shape(), image.header.world_from_voxel(), volume.slice_axis);
        let expected = read_f32(&folder.path().join(&volume.canonical));
        let expected = Array4::from_shape_vec(volume.canonical_shape, expected).unwrap();
        for (stored, expected) in image.voxels.outer_iter().zip(expected.outer_iter()) {
            let network = grid.to_network(stored.reversed_axes());
            assert_eq!(network.dim(), expected.dim(), "{}", volume.name);
            assert!(network == expected, "{}: voxels differ", volume.name);
            assert_eq!(grid.to_stored(network), stored.reversed_axes(), "{}", volume.name);
        }
        for (got, want) in grid.spacing_mm.iter().zip(&volume.spacing_mm) {
            assert!((got - want).abs() < 1e-5, "{}: {:?}", volume.name, grid.spacing_mm);
        }
    }
}

#[test]
fn identity_segmentation_comes_back_voxel_for_voxel_on_the_original_grid() {
    let folder = tempfile::tempdir().unwrap();
    for volume in volumes_of_nibabel(folder.path()) {
        let image = folder.path().join(&volume.image);
        let files = case(&image, Some(&folder.path().join(&volume.labels)));
        for plane in [Plane::Window([4, 5]), Plane::Window([16, 16])] {
            let mut config = config(volume.canonical_shape[0], plane, 3);
            config.slice_axis = volume.slice_axis;
            let plan = CasePlan::new(&files, &config, None).unwrap();
            let prepared = PreparedCase::open(&plan, &config).unwrap();
            let labels = identity_segmentation(&plan, &prepared, 4);
            let truth = read_labels(files.labels.as_ref().unwrap().path()).unwrap().0;
            assert_eq!(labels, truth, "{}", volume.name);
            let path = folder.path().join(&volume.result);
            write_labels(&path, &labels, &image, &ClassTable::of_model(&config.classes)).unwrap();
        }
    }
    let report = python("check_labels.py", folder.path()).unwrap();
    assert!(report.contains(" 0 differences"), "{report}");
}

/// Balls of three classes, `[x, y, z]`.
fn balls(shape: [usize; 3], spacing: [f32; 3]) -> Array3<u8> {
    let extent: Vec<f32> = shape.iter().zip(spacing).map(|(&side, mm)| side as f32 * mm).collect();
    let balls = [(1, [0.3, 0.3, 0.35], 0.18), (2, [0.7, 0.4, 0.6], 0.2), (3, [0.35, 0.75, 0.6], 0.17)];
    let smallest = extent.iter().copied().fold(f32::INFINITY, f32::min);
    Array3::from_shape_fn(shape, |(x, y, z)| {
        let at = [x, y, z];
        let inside = |&&(_, centre, radius): &&(u8, [f32; 3], f32)| {
            let distance: f32 = (0..3)
                .map(|axis| ((at[axis] as f32 + 0.5) * spacing[axis] - centre[axis] * extent[axis]).powi(2))
                .sum();
            distance.sqrt() < radius * smallest * 1.4
        };
        balls.iter().find(inside).map_or(0, |&(class, _, _)| class)
    })
}

/// Voxels whose label does not occur within one voxel in the other volume.
fn farther_than_one_voxel(a: &Array3<u8>, b: &Array3<u8>) -> usize {
    let (x_side, y_side, z_side) = a.dim();
    let near = |at: usize, side: usize| at.saturating_sub(1)..(at + 2).min(side);
    a.indexed_iter()
        .filter(|&((x, y, z), label)| {
            let around = ndarray::s![near(x, x_side), near(y, y_side), near(z, z_side)];
            !b.slice(around).iter().any(|other| other == label)
        })
        .count()
}

#[test]
fn resampled_segmentation_is_within_one_voxel_at_the_border() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [([usize; 3], [f32; 3], [f64; 3]); 5] = [
        ([40, 36, 30], [1.0, 1.0, 1.0], [1.3, 1.3, 1.3]),
        ([40, 36, 30], [1.0, 1.0, 1.0], [0.7, 0.8, 0.6]),
        ([64, 60, 14], [1.0, 1.0, 4.0], [4.0, 1.4, 0.8]), // anisotropic: slices are not interpolated
        ([64, 60, 14], [1.0, 1.0, 4.0], [3.0, 1.0, 1.0]),
        ([20, 48, 50], [2.5, 1.0, 1.0], [2.0, 1.2, 1.2]), // slices along x
    ];
    for (index, (shape, spacing, target)) in cases.into_iter().enumerate() {
        let truth = balls(shape, spacing);
        assert!((1..4).all(|class| truth.iter().filter(|&&label| label == class).count() > 50));
        let voxels: Vec<u8> = truth.view().reversed_axes().iter().copied().collect();
        let file = Nifti::u8(&shape.map(|side| side as i16), voxels).spaced(spacing);
        let path = file.write(&folder.path().join(format!("{index}.nii")));
        for plane in [Plane::Window([24, 24]), Plane::WholeSlice(80)] {
            let mut config = config(1, plane, 6);
            config.spacing_mm = Some(target);
            config.slice_axis = if spacing[0] > 2.0 { SliceAxis::Sagittal } else { SliceAxis::Axial };
            let plan = CasePlan::new(&case(&path, Some(&path)), &config, None).unwrap();
            assert_ne!(plan.network_shape, plan.grid.shape());
            let prepared = PreparedCase::open(&plan, &config).unwrap();
            let labels = identity_segmentation(&plan, &prepared, 4);
            let far = farther_than_one_voxel(&labels, &truth) + farther_than_one_voxel(&truth, &labels);
            assert_eq!(far, 0, "{shape:?} {spacing:?} at {target:?} in {plane:?}");
            let differing = labels.iter().zip(&truth).filter(|(a, b)| a != b).count();
            assert!(differing * 10 < truth.len(), "{differing} of {}", truth.len());
        }
    }
}

#[test]
fn whole_slices_are_resized_as_torch_does() {
    let folder = tempfile::tempdir().unwrap();
    python("volume_resize_reference.py", folder.path()).unwrap();
    let sizes = ["216x256_256", "37x50_256", "101x122_64", "256x216_1024", "64x64_64", "300x128_96"];
    for size in sizes {
        let side: usize = size.rsplit_once('_').unwrap().1.parse().unwrap();
        let config = config(1, Plane::WholeSlice(side), 3);
        let image = folder.path().join(format!("image_{size}.nii"));
        let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
        assert_eq!((plan.windows(), plan.patch()), ([[0; 3]].as_slice(), [3, side, side]));
        let window = PreparedCase::open(&plan, &config).unwrap().window(0);
        let expected = read_f32(&folder.path().join(format!("resized_{size}.f32")));
        let expected = Array3::from_shape_vec((3, side, side), expected).unwrap();
        let worst = window
            .index_axis(Axis(0), 0)
            .iter()
            .zip(&expected)
            .map(|(got, want)| (got - want).abs())
            .fold(0.0, f32::max);
        // Values in [0, 1]; positions of up to 1024 pixels in f32 are off by some 1e-5 of a pixel.
        assert!(worst < 2e-5, "{size}: {worst}");
    }
}

#[test]
fn region_of_interest_crops_the_network_and_is_zero_outside() {
    let folder = tempfile::tempdir().unwrap();
    for volume in volumes_of_nibabel(folder.path()).iter().filter(|volume| volume.canonical_shape[0] == 1) {
        let image = folder.path().join(&volume.image);
        let labels = folder.path().join(&volume.labels);
        let (stored, _) = read_labels(&labels).unwrap();
        let config = config(1, Plane::Window([4, 4]), 2);
        let files = case(&image, Some(&labels));
        let whole = CasePlan::new(&files, &config, None).unwrap();
        // A box around the centres of two opposite voxels of the middle.
        let shape = whole.grid.original_shape;
        let corner = |part: usize| {
            let at = shape.map(|side| (side - 1) as f64 * if part == 0 { 0.25 } else { 0.75 });
            let affine = whole.grid.world_from_voxel;
            affine.map(|row| row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3])
        };
        let plan = CasePlan::new(&files, &config, Some([corner(0), corner(1)])).unwrap();
        assert!(plan.grid.shape().iter().zip(whole.grid.shape()).all(|(&part, all)| part <= all));
        let prepared = PreparedCase::open(&plan, &config).unwrap();
        let got = identity_segmentation(&plan, &prepared, 4);
        let mut inside = Array3::from_elem(got.dim(), false);
        plan.grid.to_network_mut(inside.view_mut()).fill(true);
        let middle = shape.map(|side| (side - 1) / 2);
        assert!(inside[middle], "{}", volume.name);
        for ((&label, &truth), &inside) in got.iter().zip(&stored).zip(&inside) {
            assert_eq!(label, if inside { truth } else { 0 }, "{}", volume.name);
        }
    }
    let image = Nifti::u8(&[4, 4, 4], vec![1; 64]).write(&folder.path().join("far.nii"));
    let config = config(1, Plane::Window([4, 4]), 2);
    let error =
        CasePlan::new(&case(&image, None), &config, Some([[50.0; 3], [60.0; 3]])).unwrap_err().to_string();
    assert!(error.contains("far.nii") && error.contains("region of interest"), "{error}");
}

#[test]
fn statistics_do_not_depend_on_the_region_of_interest() {
    let folder = tempfile::tempdir().unwrap();
    let voxels: Vec<f32> = (0..512).map(|index| (index * index % 97) as f32).collect();
    let image = Nifti::f32(&[8, 8, 8], &voxels).write(&folder.path().join("image.nii"));
    let mut config = config(1, Plane::Window([8, 8]), 8);
    config.normalisation = Normalisation::ZScore;
    let files = case(&image, None);
    let open = |roi| {
        let plan = CasePlan::new(&files, &config, roi).unwrap();
        PreparedCase::open(&plan, &config).unwrap().window(0)
    };
    let whole = open(None);
    let part = open(Some([[2.0; 3], [5.0; 3]]));
    let expected = whole.slice(ndarray::s![.., 2..6, 2..6, 2..6]);
    assert_eq!(part.slice(ndarray::s![.., ..4, ..4, ..4]), expected);
    assert!(part.slice(ndarray::s![.., 4.., .., ..]).iter().all(|&padding| padding == 0.0));
}

#[test]
fn boxes_in_millimetres_become_labels() {
    let folder = tempfile::tempdir().unwrap();
    let file = Nifti::u8(&[10, 8, 6], vec![7; 480]).spaced([2.0, 1.0, 3.0]);
    let image = file.write(&folder.path().join("image.nii"));
    let config = config(1, Plane::Window([8, 10]), 6);
    let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
    let boxes = [
        (1, "liver".to_string(), [[4.0, 2.0, 3.0], [10.0, 5.0, 9.0]]),
        (2, "tiny".to_string(), [[16.4, 6.4, 12.4], [16.3, 6.3, 12.3]]),
    ];
    let case = PreparedCase::from_boxes(&plan, &config, &boxes).unwrap();
    let labels = case.label_window(0).unwrap();
    let expected = Array3::from_shape_fn((6, 8, 10), |(z, y, x)| match (x, y, z) {
        (2..=5, 2..=5, 1..=3) => 1,
        (8, 6, 4) => 2,
        _ => 0,
    });
    assert_eq!(labels, expected);
    let outside = [(1, "spleen".to_string(), [[100.0; 3], [120.0; 3]])];
    let error = PreparedCase::from_boxes(&plan, &config, &outside).unwrap_err().to_string();
    assert!(error.contains("image.nii") && error.contains("spleen"), "{error}");
}
