//! Volumes as MR series: geometry and values against the volume itself, dcm2niix and nibabel, and dciodvfy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use ndarray::Axis;
use self_prompt_sam::dicom::{MrSeries, coarsest_axis};
use self_prompt_sam::volume::{Affine, Image};

use crate::skip::skipped;
use crate::volumes::python_program;

/// The exit code of the script if dcm2niix is not installed.
const NOT_INSTALLED: i32 = 77;
/// Coordinates in a NIfTI header are float32.
const MILLIMETRES: f64 = 1e-4;

/// Volumes, and a series of each in `series`.
static CASES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mr_series");
    let _ = fs::remove_dir_all(&folder);
    let (code, said) = script("make", &folder);
    assert_eq!(code, Some(0), "{said}");
    for volume in names(&folder.join("volumes")) {
        let Image { header, voxels } = Image::read(&folder.join("volumes").join(&volume)).unwrap();
        let world = header.world_from_voxel();
        let axis = coarsest_axis(header.shape(), &world);
        let series = MrSeries::new(voxels.index_axis_move(Axis(0), 0), &world, axis).unwrap();
        assert_eq!(series.len(), header.shape()[axis]);
        let to = folder.join("series").join(volume.strip_suffix(".nii.gz").unwrap());
        fs::create_dir_all(&to).unwrap();
        for index in 0..series.len() {
            // Names in another order than that of the slices.
            let path = to.join(format!("{}.dcm", (index * 7 + 3) % 10));
            series.image(index).unwrap().write_to_file(path).unwrap();
        }
    }
    folder
});

fn script(mode: &str, folder: &Path) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/mr_series.py");
    let output = Command::new(python_program()).arg(script).arg(mode).arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code(), said)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn at(affine: &Affine, voxel: [f64; 3]) -> [f64; 3] {
    affine.map(|row| row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3])
}

/// The voxel at a place; the axes are perpendicular.
fn voxel_at(affine: &Affine, place: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|axis| {
        let column = affine.map(|row| row[axis]);
        let away = [0, 1, 2].map(|row| place[row] - affine[row][3]);
        let [along, square] = [away, column].map(|way| (0..3).map(|row| way[row] * column[row]).sum::<f64>());
        along / square
    })
}

#[test]
fn every_voxel_keeps_its_place_and_value() {
    let cases = names(&CASES.join("volumes"));
    assert!(cases.len() > 12);
    for case in cases {
        let volume = Image::read(&CASES.join("volumes").join(&case)).unwrap();
        let series = Image::read(&CASES.join("series").join(case.strip_suffix(".nii.gz").unwrap())).unwrap();
        assert_eq!(series.voxels.len(), volume.voxels.len(), "{case}");
        let [world, expected_world] = [&series, &volume].map(|image| image.header.world_from_voxel());
        let largest = volume.voxels.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        // Half a step of 65535 over a range of at most twice the largest value.
        let is_real = ["real", "tiny", "scaled"].iter().any(|name| case.starts_with(name));
        let tolerance = if is_real { largest * 1.02 / 65535.0 } else { 0.0 };
        for ((_, z, y, x), &value) in series.voxels.indexed_iter() {
            let place = at(&world, [x, y, z].map(|index| index as f64));
            let found = voxel_at(&expected_world, place);
            let [x, y, z] = found.map(|index| index.round() as usize);
            let expected_place = at(&expected_world, [x, y, z].map(|index| index as f64));
            for axis in 0..3 {
                assert!((place[axis] - expected_place[axis]).abs() < MILLIMETRES, "{case}: {found:?}");
            }
            let expected = volume.voxels[[0, z, y, x]];
            assert!((value - expected).abs() <= tolerance, "{case}: {value} at {found:?}, not {expected}");
        }
    }
}

#[test]
fn dcm2niix_makes_the_volumes_again() {
    match script("check", &CASES) {
        (Some(0), _) => {}
        (Some(NOT_INSTALLED), _) => skipped("dcm2niix is not installed"),
        (_, said) => panic!("{said}"),
    }
}

#[test]
fn dciodvfy_finds_no_errors() {
    for case in names(&CASES.join("series")) {
        let folder = CASES.join("series").join(&case);
        for file in names(&folder) {
            let Ok(output) = Command::new("dciodvfy").arg(folder.join(&file)).output() else {
                return skipped("dciodvfy (dicom3tools) is not installed");
            };
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(said.contains("MRImage") && !said.contains("Error"), "{case}/{file}: {said}");
            assert!(output.status.success(), "{case}/{file}: {said}");
        }
    }
}

#[test]
fn a_series_that_is_made_again_is_another_one() {
    let world = [[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 3.0, 1.0]];
    let one = MrSeries::new(ndarray::Array3::zeros((2, 3, 4)), &world, 2).unwrap();
    let uids = |series: &MrSeries| {
        let image = series.image(1).unwrap();
        let uid = |tag| image.element(tag).unwrap().to_str().unwrap().into_owned();
        [
            dicom_dictionary_std::tags::STUDY_INSTANCE_UID,
            dicom_dictionary_std::tags::SERIES_INSTANCE_UID,
            dicom_dictionary_std::tags::SOP_INSTANCE_UID,
        ]
        .map(uid)
    };
    assert_eq!(uids(&one), uids(&one));
    let again = uids(&one.again());
    assert!(uids(&one).iter().zip(&again).all(|(one, other)| one != other));
}
