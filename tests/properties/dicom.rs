//! DICOM series written by pydicom, against their definition (nibabel) and dcm2niix.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use self_prompt_sam::volume::{ClassTable, Header};
use self_prompt_sam::volume::{Discovery, Image, discover, read_labels, write_labels};

use crate::skip::skipped;
use crate::volumes::python;

/// Coordinates in a NIfTI header are float32.
const MILLIMETRES: f64 = 1e-4;

pub static SERIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dicom");
    python("make_dicom.py", &folder).unwrap();
    folder
});

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Shape, voxels in the same order, and affine.
fn assert_same(series: &Path, nifti: &Path) {
    let (found, expected) = (Image::read(series).unwrap(), Image::read(nifti).unwrap());
    assert_eq!(found.header.shape(), expected.header.shape(), "{}", nifti.display());
    assert_eq!(found.voxels, expected.voxels, "{}", nifti.display());
    let [found, expected] = [found, expected].map(|image| image.header.world_from_voxel());
    for (a, b) in found.as_flattened().iter().zip(expected.as_flattened()) {
        assert!((a - b).abs() < MILLIMETRES, "{}: {found:?}, expected {expected:?}", nifti.display());
    }
}

#[test]
fn series_are_the_volumes_that_they_define() {
    let cases = names(&SERIES.join("good"));
    assert!(cases.len() > 10);
    for case in cases {
        assert_same(&SERIES.join("good").join(&case), &SERIES.join("own").join(format!("{case}.nii.gz")));
    }
}

#[test]
fn series_are_the_volumes_that_dcm2niix_writes() {
    let converted = SERIES.join("dcm2niix");
    if !converted.exists() {
        return skipped("dcm2niix is not installed");
    }
    for case in names(&SERIES.join("good")) {
        assert_same(&SERIES.join("good").join(&case), &converted.join(format!("{case}.nii")));
    }
}

#[test]
fn every_series_in_a_tree_is_a_case_named_after_its_folder() {
    let cases = discover(&SERIES.join("good"), None, 1).unwrap();
    let found: Vec<&str> = cases.iter().map(|case| &*case.case_id).collect();
    assert_eq!(found, names(&SERIES.join("good")));
}

#[test]
fn volumes_of_a_series_are_cases_of_their_own() {
    let root = SERIES.join("split");
    for (folder, expected) in [
        ("echoes", &["echoes_e1", "echoes_e2"][..]),
        ("dixon", &["dixon_i1", "dixon_i2"]),
        ("times", &["times_t1", "times_t2", "times_t3"]),
        ("planes", &["planes_o1", "planes_o2"]),
        ("cine", &["cine_p1", "cine_p2"]),
        ("two_series", &["two_series_s3", "two_series_s11"]),
    ] {
        let cases = discover(&root.join(folder), None, 1).unwrap();
        let found: Vec<&str> = cases.iter().map(|case| &*case.case_id).collect();
        assert_eq!(found, expected);
        let second = &cases[1].images[0];
        assert_eq!(discover(second, None, 1).unwrap()[0].images, std::slice::from_ref(second));
        let mut values = BTreeSet::new();
        for case in &cases {
            let voxels = Image::read(&case.images[0]).unwrap().voxels;
            assert_eq!(voxels.len(), 5 * 7 * 9);
            let first = voxels[[0, 0, 0, 0]];
            assert!(voxels.iter().all(|&voxel| voxel == first), "{}", case.case_id);
            values.insert(first as usize);
        }
        assert_eq!(values, (1..=expected.len()).collect(), "{folder}");
        let error = Header::read(&root.join(folder)).unwrap_err().to_string();
        assert!(error.contains(expected[0]), "{error}");
    }
}

#[test]
fn unusable_series_are_refused_in_one_line_with_the_cause() {
    for (folder, cause) in [
        ("gap", "slices are missing between"),
        ("twice", "show the same place"),
        ("tilt", "13.5° (gantry tilt)"),
        ("sizes", "different sizes"),
        ("inverse", "MONOCHROME1"),
        ("colour", "3 values per pixel (RGB): not supported"),
        ("no_place", "Image Position (Patient)"),
        ("lies", "4000 × 4000 pixels need"),
        ("huge", "65535 × 65535 pixels"),
        ("jpeg_ls", "1.2.840.10008.1.2.4.80 (JPEG-LS Lossless)"),
        ("truncated", "truncated"),
        ("garbage", "no DICM prefix"),
    ] {
        let path = SERIES.join("bad").join(folder);
        let error = discover(&path, None, 1).unwrap_err().to_string();
        assert!(error.contains(cause) && error.contains(&format!("bad/{folder}")), "{error}");
        assert!(!error.contains('\n') && !error.to_lowercase().contains("secret"), "{error}");
        assert_eq!(Header::read(&path).unwrap_err().to_string(), error);
    }
}

#[test]
fn a_damaged_series_does_not_stop_the_others() {
    let root = tempfile::tempdir().unwrap();
    for (from, name) in
        [("good/axial", "one"), ("bad/gap", "two"), ("good/ct", "three"), ("bad/garbage", "four")]
    {
        let folder = root.path().join(name);
        fs::create_dir(&folder).unwrap();
        for file in names(&SERIES.join(from)) {
            fs::copy(SERIES.join(from).join(&file), folder.join(&file)).unwrap();
        }
    }
    let found = Discovery::find(root.path(), None, 1).unwrap();
    assert_eq!(found.cases.len(), 2);
    let names: Vec<&str> = found.unusable.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["four", "two"]);
}

#[test]
fn label_maps_lie_on_the_grid_of_the_series() {
    let series = SERIES.join("good/oblique");
    let header = Header::read(&series).unwrap();
    let labels = ndarray::Array3::from_shape_fn(header.shape(), |(x, y, z)| ((x + y + z) % 3) as u8);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii.gz");
    write_labels(&path, &labels, &series, &ClassTable::of_values([1, 2])).unwrap();
    assert_eq!(read_labels(&path).unwrap().0, labels);
    let written = Header::read(&path).unwrap();
    assert_eq!(written.world_from_voxel(), header.world_from_voxel());
    assert!(!String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("Secret"));
}

/// Files of other authors, many of them damaged: each is read, or refused in one line.
#[test]
fn every_file_of_pydicom_is_read_or_refused() {
    let corpus = SERIES.join("corpus");
    let (mut read, mut refused) = (0, 0);
    for name in names(&corpus) {
        match Image::read(&corpus.join(&name)) {
            Ok(_) => read += 1,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(&name) && !error.contains('\n'), "{error}");
                refused += 1;
            }
        }
    }
    assert!(read >= 10 && refused >= 10, "{read} read, {refused} refused");
    let plain = Image::read(&corpus.join("MR_small.dcm")).unwrap().voxels;
    for same in
        ["MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"]
    {
        assert_eq!(Image::read(&corpus.join(same)).unwrap().voxels, plain, "{same}");
    }
}

/// A file cut off anywhere, or with changed bytes, gives no panic.
#[test]
fn damaged_files_do_not_panic() {
    let corpus = SERIES.join("corpus");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for name in ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_implicit.dcm"] {
        let bytes = fs::read(corpus.join(name)).unwrap();
        for at in (140..bytes.len()).step_by(bytes.len() / 60) {
            fs::write(&path, &bytes[..at]).unwrap();
            let _ = Image::read(&path);
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            fs::write(&path, &changed).unwrap();
            let _ = Image::read(&path);
        }
    }
}
