//! Labels and modalities on other grids than the image's: reordered exactly, accepted within rounding, refused with
//! a message in mm, or resampled on request.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::path::{Path, PathBuf};

use ndarray::{Array3, Axis};
use self_prompt_sam::bundle::Plane;
use self_prompt_sam::training::CaseStore;
use self_prompt_sam::volume::{
    CaseFiles, CasePlan, Header, PlanOptions, PreparedCase, Regrid, read_labels_on,
};

use crate::volumes::{Nifti, case, config, with_affine};

type Matrix = [[f64; 4]; 3];

/// An oblique scan with anisotropic voxels, as scanners produce it.
const OBLIQUE: Matrix = [[-0.88, 0.21, 0.4, 31.0], [0.17, 1.16, -0.5, -40.5], [0.1, -0.17, 2.9, 12.25]];
const SHAPE: [usize; 3] = [7, 6, 5];

/// Labels 0 to 3 without any symmetry.
fn labels() -> Array3<u8> {
    Array3::from_shape_fn(SHAPE, |(x, y, z)| ((x * 5 + y * 3 + z * 7 + x * y + z * z) % 4) as u8)
}

fn write(path: &Path, voxels: &Array3<u8>, affine: &Matrix) -> PathBuf {
    let (x, y, z) = voxels.dim();
    let file = Nifti::u8(
        &[x, y, z].map(|side| side as i16),
        voxels.view().reversed_axes().iter().copied().collect(),
    );
    std::fs::write(path, with_affine(file.bytes(), affine)).unwrap();
    path.into()
}

/// The same voxels, stored with axis `i` along axis `axes[i]`, reversed if `flips[i]`.
fn stored_otherwise(
    voxels: &Array3<u8>,
    affine: &Matrix,
    axes: [usize; 3],
    flips: [bool; 3],
) -> (Array3<u8>, Matrix) {
    let mut view = voxels.view().permuted_axes(axes);
    let sides = [view.dim().0, view.dim().1, view.dim().2];
    let mut world = affine.map(|row| [row[axes[0]], row[axes[1]], row[axes[2]], row[3]]);
    for axis in (0..3).filter(|&axis| flips[axis]) {
        view.invert_axis(Axis(axis));
        for row in &mut world {
            row[3] += row[axis] * (sides[axis] as f64 - 1.0);
            row[axis] = -row[axis];
        }
    }
    (view.to_owned(), world)
}

fn window(files: &CaseFiles, options: &PlanOptions) -> Result<(Array3<u8>, CasePlan), String> {
    let mut config = config(files.images.len(), Plane::Window([16, 16]), 16);
    config.patch.depth = 16;
    let plan = CasePlan::with_options(files, &config, options).map_err(|error| error.to_string())?;
    let prepared = PreparedCase::open(&plan, &config).map_err(|error| error.to_string())?;
    Ok((prepared.label_window(0).unwrap_or_default(), plan))
}

#[test]
fn labels_stored_in_any_order_come_to_the_images_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let truth = labels();
    let image = write(&folder.path().join("image.nii"), &truth, &OBLIQUE);
    let expected = window(&case(&image, Some(&image)), &PlanOptions::default()).unwrap().0;
    assert!(expected.iter().any(|&label| label == 3));
    let header = Header::read(&image).unwrap();
    let mut count = 0;
    for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for mask in 0..8 {
            let flips = [0, 1, 2].map(|axis| mask >> axis & 1 == 1);
            let (stored, world) = stored_otherwise(&truth, &OBLIQUE, axes, flips);
            let path = write(&folder.path().join(format!("labels_{count}.nii")), &stored, &world);
            let got = read_labels_on(&path, &(&header).into(), Regrid::Refuse).unwrap();
            assert_eq!(got, truth, "{axes:?} {flips:?}");
            assert_eq!(got.strides(), [1, 7, 42], "x is fastest in memory, as in a file");
            let (got, _) = window(&case(&image, Some(&path)), &PlanOptions::default()).unwrap();
            assert_eq!(got, expected, "{axes:?} {flips:?}");
            count += 1;
        }
    }
    assert_eq!(count, 48);
}

#[test]
fn rounding_of_an_affine_is_no_other_grid() {
    let folder = tempfile::tempdir().unwrap();
    let truth = labels();
    let image = write(&folder.path().join("image.nii"), &truth, &OBLIQUE);
    let rounded = OBLIQUE.map(|row| row.map(|value| (value * 1e4).round() / 1e4 + 1e-4));
    let offset = OBLIQUE.map(|[x, y, z, at]| [x, y, z, at + 2e-3]); // 0.4 percent of a voxel
    let header = Header::read(&image).unwrap();
    for (name, affine) in [("rounded.nii", rounded), ("offset.nii", offset)] {
        let path = write(&folder.path().join(name), &truth, &affine);
        assert_eq!(read_labels_on(&path, &(&header).into(), Regrid::Refuse).unwrap(), truth, "{name}");
    }
    // Micrometres: half a percent of a voxel is below the resolution of a float32 offset.
    let small = OBLIQUE.map(|[x, y, z, at]| [x / 100.0, y / 100.0, z / 100.0, at]);
    let image = write(&folder.path().join("small.nii"), &truth, &small);
    let moved = small.map(|[x, y, z, at]| [x, y, z, at + 5e-4]);
    let path = write(&folder.path().join("moved.nii"), &truth, &moved);
    let header = Header::read(&image).unwrap();
    assert_eq!(read_labels_on(&path, &(&header).into(), Regrid::Refuse).unwrap(), truth);
}

#[test]
fn another_grid_is_refused_with_both_names_and_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let truth = labels();
    let image = write(&folder.path().join("image.nii"), &truth, &OBLIQUE);
    let straight = [[1.0, 0.0, 0.0, 3.0], [0.0, 1.0, 0.0, 5.0], [0.0, 0.0, 2.0, 7.0]];
    let plain = write(&folder.path().join("plain.nii"), &truth, &straight);
    let (sine, cosine) = 5f64.to_radians().sin_cos();
    let turned = [[cosine, -sine, 0.0, 3.0], [sine, cosine, 0.0, 5.0], [0.0, 0.0, 2.0, 7.0]];
    let sheared = [[1.0, 0.1, 0.0, 3.0], [0.0, 1.0, 0.0, 5.0], [0.0, 0.0, 2.0, 7.0]];
    let eye = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let moved = |affine: Matrix, by: f64| affine.map(|[x, y, z, at]| [x, y, z, at + by / 3f64.sqrt()]);
    let small = truth.slice(ndarray::s![.., .., ..4]).to_owned();
    let table: [(&str, &Path, &Array3<u8>, Matrix, &str); 8] = [
        ("moved.nii", &image, &truth, moved(OBLIQUE, 50.0), "its centre lies 50.000 mm away"),
        ("nearly.nii", &image, &truth, moved(OBLIQUE, 0.02), "0.020 mm"),
        ("eye.nii", &image, &truth, eye, "voxels of 1 x 1 x 1 against 0.9"),
        (
            "spacing.nii",
            &plain,
            &truth,
            straight.map(|[x, y, z, t]| [x, y, z * 1.5, t]),
            "1 x 1 x 3 against 1 x 1 x 2 mm",
        ),
        ("turned.nii", &plain, &truth, turned, "turned by 5.00 degrees"),
        ("sheared.nii", &plain, &truth, sheared, "sheared by 5.71 degrees"),
        ("mirrored.nii", &plain, &truth, moved(straight.map(|[x, y, z, t]| [-x, y, z, t]), 0.0), "mm away"),
        ("small.nii", &plain, &small, straight, "shape [7, 6, 4] against [7, 6, 5]"),
    ];
    for (name, image, voxels, affine, difference) in table {
        let path = write(&folder.path().join(name), voxels, &affine);
        let header = Header::read(image).unwrap();
        let error = read_labels_on(&path, &(&header).into(), Regrid::Refuse).unwrap_err().to_string();
        let image_name = image.file_name().unwrap().to_str().unwrap();
        for part in [name, image_name, difference, "mm"] {
            assert!(error.contains(part), "{name}: `{part}` is not in: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
        // A case is refused from the headers, before any voxel is read.
        let config = config(1, Plane::Window([8, 8]), 8);
        let early = CasePlan::new(&case(image, Some(&path)), &config, None).unwrap_err().to_string();
        assert_eq!(early, error);
    }
}

#[test]
fn labels_on_another_grid_are_resampled_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let resample = PlanOptions { regrid: Regrid::Resample, ..PlanOptions::default() };
    // The image has voxels of 2 mm, the labels of 1 mm over the same field and 4 mm beyond it.
    let image_world = [[2.0, 0.0, 0.0, -10.0], [0.0, 2.0, 0.0, 4.0], [0.0, 0.0, 2.0, 0.0]];
    let image = write(&folder.path().join("image.nii"), &Array3::ones([6, 5, 4]), &image_world);
    let fine_world = [[-1.0, 0.0, 0.0, 5.5], [0.0, 1.0, 0.0, 3.5], [0.0, 0.0, 1.0, -0.5]];
    let fine = Array3::from_shape_fn([20, 12, 8], |(x, y, z)| u8::from(x > 9) + 2 * u8::from(y > 4 && z < 5));
    let path = write(&folder.path().join("fine.nii"), &fine, &fine_world);
    let header = Header::read(&image).unwrap();
    let got = read_labels_on(&path, &(&header).into(), Regrid::Resample).unwrap();
    for ((x, y, z), &label) in got.indexed_iter() {
        // The image voxel's centre lies on a corner of fine voxels, of which the higher one is used.
        let fine_x = (5.5 - (-10.0 + 2.0 * x as f64) + 0.5).floor() as usize;
        assert_eq!(label, fine[[fine_x, 2 * y + 1, 2 * z + 1]], "{x} {y} {z}");
    }
    assert!(window(&case(&image, Some(&path)), &PlanOptions::default()).unwrap_err().contains("fine.nii"));
    let (resampled, plan) = window(&case(&image, Some(&path)), &resample).unwrap();
    assert_eq!(resampled[[1, 2, 0]], got[[0, 2, 1]]);
    // The plan sent to the writer says so as well.
    let sent: CasePlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(sent.regrid, Regrid::Resample);
    // Outside the labels there is background; labels that do not overlap at all are still refused.
    let part = fine.slice(ndarray::s![..10, .., ..]).to_owned();
    let path = write(&folder.path().join("part.nii"), &part, &fine_world);
    let got = read_labels_on(&path, &(&header).into(), Regrid::Resample).unwrap();
    assert!(got.slice(ndarray::s![..2, .., ..]).iter().all(|&label| label == 0));
    let far = fine_world.map(|[x, y, z, at]| [x, y, z, at + 500.0]);
    let path = write(&folder.path().join("far.nii"), &fine, &far);
    let error = read_labels_on(&path, &(&header).into(), Regrid::Resample).unwrap_err().to_string();
    assert!(error.contains("far.nii") && error.contains("do not overlap"), "{error}");
}

#[test]
fn modalities_follow_the_first_image() {
    let folder = tempfile::tempdir().unwrap();
    let voxels = Array3::from_shape_fn(SHAPE, |(x, y, z)| (x + 10 * y + 40 * z) as u8);
    let first = write(&folder.path().join("first.nii"), &voxels, &OBLIQUE);
    let (stored, world) = stored_otherwise(&voxels, &OBLIQUE, [2, 0, 1], [true, false, true]);
    let turned = write(&folder.path().join("turned.nii"), &stored, &world);
    let files = |second: &Path| CaseFiles {
        case_id: "case".into(),
        images: vec![first.clone(), second.into()],
        labels: None,
    };
    let mut config = config(2, Plane::Window([8, 8]), 8);
    config.normalisation = self_prompt_sam::bundle::Normalisation::Window { low: 0.0, high: 255.0 };
    let images = |second: &Path, regrid| {
        let options = PlanOptions { regrid, ..PlanOptions::default() };
        let plan = CasePlan::with_options(&files(second), &config, &options)?;
        PreparedCase::open(&plan, &config).map(|case| case.window(0))
    };
    let both = images(&turned, Regrid::Refuse).unwrap();
    assert_eq!(both.index_axis(Axis(0), 0), both.index_axis(Axis(0), 1));
    // Shifted by half a voxel along x, the values of a ramp increase by a half.
    let half = OBLIQUE.map(|row| [row[0], row[1], row[2], row[3] - 0.5 * row[0]]);
    let shifted = write(&folder.path().join("shifted.nii"), &voxels, &half);
    let error = images(&shifted, Regrid::Refuse).unwrap_err().to_string();
    assert!(error.contains("shifted.nii") && error.contains("first.nii"), "{error}");
    let both = images(&shifted, Regrid::Resample).unwrap();
    let difference = &both.index_axis(Axis(0), 1) - &both.index_axis(Axis(0), 0);
    let rises = difference.iter().filter(|&&value| (value * 255.0 - 0.5).abs() < 1e-3).count();
    assert_eq!(rises, 6 * 6 * 5, "all but the outermost column");
}

/// Runs `spsam evaluate` on a prediction and a truth.
fn evaluate(prediction: &Path, truth: &Path, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_spsam"))
        .env_remove("SPSAM_RESAMPLE_LABELS")
        .args(["evaluate".as_ref(), "--predictions".as_ref(), prediction.as_os_str()])
        .args(["--labels".as_ref(), truth.as_os_str()])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8([&*output.stdout, &*output.stderr].concat()).unwrap();
    (output.status.success(), said)
}

#[test]
fn predictions_are_judged_on_the_grid_of_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    // One-slice plates, shifted by one voxel of 5 mm.
    let world = [[-2.0, 0.0, 0.0, 12.0], [0.0, 2.0, 0.0, -8.0], [0.0, 0.0, 5.0, 3.0]];
    let plate = |slice: usize| Array3::from_shape_fn([6, 5, 8], |(_, _, z)| u8::from(z == slice));
    let truth = write(&folder.path().join("truth.nii"), &plate(3), &world);
    let (stored, turned) = stored_otherwise(&plate(4), &world, [2, 0, 1], [false, true, true]);
    let prediction = write(&folder.path().join("prediction.nii"), &stored, &turned);
    let (is_right, said) = evaluate(&prediction, &truth, &[]);
    assert!(is_right && said.contains("class_1: Dice 0.0000, HD95 5.000 mm"), "{said}");
    let (stored, turned) = stored_otherwise(&plate(3), &world, [1, 2, 0], [true, false, true]);
    let prediction = write(&folder.path().join("same.nii"), &stored, &turned);
    let (is_right, said) = evaluate(&prediction, &truth, &[]);
    assert!(is_right && said.contains("class_1: Dice 1.0000, HD95 0.000 mm"), "{said}");
    // A truth without a valid header: distances must not be in voxels.
    let eye = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let lost = write(&folder.path().join("lost.nii"), &plate(3), &eye);
    let moved = write(&folder.path().join("moved.nii"), &plate(4), &world);
    for arguments in [&[][..], &["--resample-labels"]] {
        let (is_right, said) = evaluate(&moved, &lost, arguments);
        assert_eq!(is_right, !arguments.is_empty(), "{said}");
        assert!(said.contains("moved.nii") && said.contains("lost.nii"), "{said}");
        assert!(said.contains("voxels of 2 x 2 x 5 against 1 x 1 x 1 mm"), "{said}");
    }
}

#[test]
fn training_learns_from_labels_on_the_images_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let truth = labels();
    let image = write(&folder.path().join("image.nii"), &truth, &OBLIQUE);
    let (stored, world) = stored_otherwise(&truth, &OBLIQUE, [1, 0, 2], [true, true, false]);
    let turned = write(&folder.path().join("turned.nii"), &stored, &world);
    let moved = OBLIQUE.map(|[x, y, z, at]| [x, y, z, at + 0.4]);
    let moved = write(&folder.path().join("moved.nii"), &truth, &moved);
    let learn = |labels: &Path, regrid| {
        let cases = vec![case(&image, Some(labels))];
        let store = CaseStore::new(cases, config(1, Plane::Window([8, 8]), 8), 1 << 20).regrid(regrid);
        store.get(0).map(|case| case.labels.clone()).map_err(|error| error.to_string())
    };
    let expected = learn(&image, Regrid::Refuse).unwrap();
    assert_eq!(learn(&turned, Regrid::Refuse), Ok(expected));
    let error = learn(&moved, Regrid::Refuse).unwrap_err();
    assert!(error.contains("moved.nii") && error.contains("image.nii") && error.contains("mm"), "{error}");
    assert!(learn(&moved, Regrid::Resample).is_ok());
}
