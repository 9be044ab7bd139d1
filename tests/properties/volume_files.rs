//! Bad files: each gives one line that names the file, and nothing is left behind.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::io::Write;
use std::path::Path;

use ndarray::Array3;
use self_prompt_sam::bundle::Plane;
use self_prompt_sam::volume::{
    CasePlan, ClassTable, Image, PreparedCase, VolumeError, discover, read_labels, write_labels,
};

use crate::volumes::{Nifti, case, config};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn cube() -> Nifti {
    Nifti::f32(&[6, 5, 4], &(0..120).map(|voxel| voxel as f32).collect::<Vec<_>>())
}

/// What the loader does with a case.
fn load(image: &Path, labels: Option<&Path>, modalities: usize) -> Result<(), VolumeError> {
    let config = config(modalities, Plane::Window([8, 8]), 4);
    let plan = CasePlan::new(&case(image, labels), &config, None)?;
    PreparedCase::open(&plan, &config).map(|_| ())
}

#[test]
fn bad_images_are_refused_in_one_line_naming_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = cube().bytes();
    let with = |edits: &[(usize, &[u8])]| {
        let mut bytes = good.clone();
        for &(at, edit) in edits {
            bytes[at..at + edit.len()].copy_from_slice(edit);
        }
        bytes
    };
    let huge = [0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f]; // 32767 each
    let compressed = gzip(&good);
    let mut damaged = compressed.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 0xff;
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut.nii.gz", compressed[..compressed.len() / 2].to_vec(), "truncated"),
        ("cut_trailer.nii.gz", compressed[..compressed.len() - 4].to_vec(), "truncated"),
        ("checksum.nii.gz", damaged, "checksum"),
        ("cut.nii", good[..400].to_vec(), "truncated"),
        ("cut_header.nii", good[..100].to_vec(), "shorter than a header"),
        ("empty.nii.gz", Vec::new(), "shorter than a header"),
        ("text.nii", b"hello, I am not a volume".repeat(30), "not a NIfTI file"),
        ("magic.nii", with(&[(344, b"xxxx")]), "wrong magic"),
        ("pair.nii", with(&[(344, b"ni1\0")]), "voxels are in an .img file"),
        ("nifti2.nii", with(&[(0, &540i32.to_le_bytes())]), "wrong magic"),
        ("analyze.nii", with(&[(344, &[0; 4])]), "ANALYZE 7.5, which does not say which side is left"),
        ("rank.nii", with(&[(40, &[9, 0])]), "9 dimensions"),
        ("zero.nii", with(&[(44, &[0, 0])]), "dimension 2 is zero"),
        ("negative.nii", with(&[(44, &(-5i16).to_le_bytes())]), "dimension of -5"),
        ("huge.nii", with(&[(42, &huge)]), "truncated"),
        ("huge.nii.gz", gzip(&with(&[(42, &huge)])), "truncated"),
        ("five.nii", Nifti::u8(&[2, 2, 2, 1, 3], vec![0; 24]).bytes(), "[2, 2, 2, 1, 3], expected 2, 3 or 4"),
        ("one.nii", Nifti::u8(&[8], vec![0; 8]).bytes(), "expected 2, 3 or 4"),
        ("rgb.nii", with(&[(70, &128i16.to_le_bytes())]), "type 128"),
        ("complex.nii", with(&[(70, &32i16.to_le_bytes())]), "type 32"),
        ("offset.nii", with(&[(108, &(-1f32).to_le_bytes())]), "vox_offset is -1"),
        ("offset_far.nii", with(&[(108, &9e8f32.to_le_bytes())]), "truncated"),
        ("inter.nii", with(&[(116, &f32::INFINITY.to_le_bytes())]), "scl_inter is inf"),
        (
            "nan.nii",
            with(&[(352, &f32::NAN.to_le_bytes().repeat(120))]),
            "all 120 voxels are NaN or infinite",
        ),
        (
            "modalities.nii",
            Nifti::u8(&[2, 2, 2, 3], vec![0; 24]).bytes(),
            "3 modalities, the bundle expects 1",
        ),
    ];
    for (name, bytes, reason) in table {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path, None, 1).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{name}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        if name != "modalities.nii" {
            assert!(Image::read(&path).is_err(), "{name}");
        }
    }
    let missing = folder.path().join("missing.nii.gz");
    let error = load(&missing, None, 1).unwrap_err().to_string();
    assert!(error.contains("missing.nii.gz") && error.contains("No such file"), "{error}");
}

#[test]
fn bad_labels_are_refused_in_one_line_naming_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let image = cube().write(&folder.path().join("image.nii"));
    let voxels = |value: f32| (0..120).map(|at| if at == 60 { value } else { 1.0 }).collect::<Vec<_>>();
    let shape = [6, 5, 4];
    let table = [
        ("shape.nii", Nifti::u8(&[6, 5, 3], vec![0; 90]), "shape [6, 5, 3] against [6, 5, 4]"),
        ("film.nii", Nifti::u8(&[6, 5, 4, 2], vec![0; 240]), "expected one volume"),
        ("half.nii", Nifti::f32(&shape, &voxels(1.5)), "label 1.5 is not an integer"),
        ("many.nii", Nifti::f32(&shape, &voxels(256.0)), "label 256"),
        ("negative.nii", Nifti::f32(&shape, &voxels(-1.0)), "label -1"),
        ("nan.nii", Nifti::f32(&shape, &voxels(f32::NAN)), "label NaN"),
    ];
    for (name, file, reason) in table {
        let path = file.write(&folder.path().join(name));
        let error = load(&image, Some(&path), 1).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{name}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = load(&image, Some(&folder.path().join("no.nii")), 1).unwrap_err().to_string();
    assert!(error.contains("no.nii"), "{error}");
    let (labels, spacing) = read_labels(&image).unwrap(); // 0 to 119
    assert_eq!((labels[[1, 2, 3]], spacing), (103, [1.0; 3]));
}

#[test]
fn members_of_a_gzip_file_are_read_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = cube().bytes();
    let path = folder.path().join("members.nii.gz");
    std::fs::write(&path, [gzip(&bytes[..500]), gzip(&bytes[500..])].concat()).unwrap();
    let image = Image::read(&path).unwrap();
    assert_eq!(image.voxels[[0, 3, 4, 5]], 119.0);
    // A wrong ending is no obstacle.
    let path = folder.path().join("compressed.nii");
    std::fs::write(&path, gzip(&bytes)).unwrap();
    assert_eq!(Image::read(&path).unwrap().voxels, image.voxels);
}

#[test]
fn labels_that_cannot_be_written_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let image = cube().write(&folder.path().join("image.nii"));
    let labels = Array3::ones((6, 5, 4));
    let taken = folder.path().join("taken.nii.gz");
    std::fs::create_dir(&taken).unwrap();
    let no_folder = folder.path().join("no/result.nii.gz");
    let below_a_file = image.join("result.nii.gz");
    for path in [&taken, &no_folder, &below_a_file] {
        let error = write_labels(path, &labels, &image, &ClassTable::of_values([1])).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.lines().count() == 1, "{error}");
    }
    let wrong = folder.path().join("wrong.nii.gz");
    let error = write_labels(&wrong, &Array3::ones((6, 5, 3)), &image, &ClassTable::of_values([1]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("wrong.nii.gz") && error.contains("[6, 5, 3]"), "{error}");
    assert!(
        write_labels(&wrong, &labels, &folder.path().join("gone.nii"), &ClassTable::of_values([1])).is_err()
    );
    let mut left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["image.nii", "taken.nii.gz"]);

    let result = folder.path().join("result.nii.gz");
    std::fs::write(&result, b"an older result").unwrap();
    write_labels(&result, &labels, &image, &ClassTable::of_values([1])).unwrap();
    assert_eq!(read_labels(&result).unwrap().0, labels);
}

#[test]
fn folders_without_volumes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = discover(folder.path(), None, 1).unwrap_err();
    assert!(matches!(error, VolumeError::NoCases { .. }), "{error}");
    let error = discover(&folder.path().join("gone"), None, 1).unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
}
