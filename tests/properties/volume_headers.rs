//! Header fields that change the meaning of voxels, bytes around the voxels, and the headers written for labels.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::io::Write;
use std::path::{Path, PathBuf};

use ndarray::Array3;
use self_prompt_sam::bundle::{Normalisation, Plane};
use self_prompt_sam::volume::{
    CasePlan, ClassTable, Header, Image, PreparedCase, VolumeError, discover, read_labels, write_labels,
};

use crate::volumes::{Nifti, case, config, edited, warnings_of, with_affine};

const SHAPE: [usize; 3] = [4, 3, 2];

fn counting() -> Nifti {
    Nifti::f32(&[4, 3, 2], &(0..24).map(|voxel| voxel as f32).collect::<Vec<_>>())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn lengths_are_millimetres_whatever_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let table = [
        ("metre", 1, 1e-3),
        ("millimetre", 2, 1.0),
        ("micrometre", 3, 1e3),
        ("none", 0, 1.0),
        ("other", 5, 1.0),
    ];
    for (name, unit, factor) in table {
        let affine = [[1.5, 0.0, 0.0, -30.0], [0.0, 2.5, 0.0, 4.0], [0.0, 0.0, 3.0, 7.0]];
        let stored = affine.map(|row: [f64; 4]| row.map(|value| value * factor));
        let pixdim = [1.5f64, 2.5, 3.0].map(|size| ((size * factor) as f32).to_le_bytes()).concat();
        // Also for the qform and pixdim alone.
        for (form, codes) in [("sform", [0, 0, 1, 0]), ("qform", [1, 0, 0, 0]), ("pixdim", [0; 4])] {
            let offset = [-30.0f64, 4.0, 7.0].map(|at| ((at * factor) as f32).to_le_bytes()).concat();
            let edits = [(80, pixdim.as_slice()), (123, &[unit | 8]), (252, &codes), (268, &offset)];
            let bytes = edited(with_affine(counting().bytes(), &stored), &edits);
            let path = write(folder.path(), &format!("{name}_{form}.nii"), &bytes);
            let (header, warnings) = warnings_of(|| Header::read(&path).unwrap());
            for (got, want) in header.spacing_mm().iter().zip([1.5, 2.5, 3.0]) {
                assert!((got - want).abs() < 1e-6, "{name} {form}: {:?}", header.spacing_mm());
            }
            if form != "pixdim" {
                assert!((header.world_from_voxel()[0][3] + 30.0).abs() < 1e-4, "{name} {form}");
            }
            let expected = if name == "other" { 1 } else { 0 };
            assert_eq!(warnings.len(), expected, "{warnings:?}");
            assert!(warnings.iter().all(|warning| warning.contains("unknown unit of length 5")));
        }
    }
}

#[test]
fn labels_in_micrometres_lie_on_an_image_in_millimetres() {
    let folder = tempfile::tempdir().unwrap();
    let affine = [[1.5, 0.0, 0.0, -30.0], [0.0, 2.5, 0.0, 4.0], [0.0, 0.0, 3.0, 7.0]];
    let image = write(folder.path(), "image.nii", &with_affine(counting().bytes(), &affine));
    let microns = affine.map(|row: [f64; 4]| row.map(|value| value * 1e3));
    let labels = Nifti::u8(&[4, 3, 2], (0..24).map(|at| at % 3).collect()).bytes();
    let labels = edited(with_affine(labels, &microns), &[(80, &[0; 12]), (123, &[3])]);
    let labels = write(folder.path(), "labels.nii", &labels);
    CasePlan::new(&case(&image, Some(&labels)), &config(1, Plane::Window([4, 4]), 2), None).unwrap();
}

#[test]
fn forms_that_contradict_each_other_are_settled_by_two_of_three() {
    let folder = tempfile::tempdir().unwrap();
    let (real, one) = ([1.5, 2.5, 3.0], [1.0; 3]);
    let other = [1.5, 2.5, 6.0];
    // sform, pixdim, codes of qform and sform, the one used, text of the warning.
    let table = [
        ("agree", real, real, [1, 1], real, ""),
        ("rounding", real, [1.501, 2.499, 3.001], [1, 1], real, ""),
        ("no_pixdim", real, [0.0; 3], [0, 1], real, ""),
        (
            "lost_sform",
            one,
            real,
            [1, 1],
            real,
            "1 x 1 x 1 mm by the sform, 1.5 x 2.5 x 3 mm by qform and pixdim: the qform counts",
        ),
        (
            "other_sform",
            other,
            real,
            [1, 1],
            real,
            "1.5 x 2.5 x 6 mm by the sform, 1.5 x 2.5 x 3 mm by qform",
        ),
        (
            "lost_pixdim",
            real,
            one,
            [1, 4],
            real,
            "1.5 x 2.5 x 3 mm by the sform, 1 x 1 x 1 mm by qform and pixdim: the sform counts",
        ),
        ("two_sources", real, other, [0, 1], real, "1.5 x 2.5 x 6 mm by pixdim: the sform counts"),
        ("no_sform", one, real, [1, 0], real, ""),
    ];
    for (name, sform, pixdim, [qform_code, sform_code], expected, warning) in table {
        let affine = [0, 1, 2].map(|row| {
            let mut values = [0.0; 4];
            values[row] = sform[row];
            values
        });
        let pixdim = pixdim.map(|size: f64| (size as f32).to_le_bytes()).concat();
        let edits = [(80, pixdim.as_slice()), (252, &[qform_code, 0, sform_code, 0])];
        let path = write(
            folder.path(),
            &format!("{name}.nii"),
            &edited(with_affine(counting().bytes(), &affine), &edits),
        );
        let (header, warnings) =
            warnings_of(|| (0..3).map(|_| Header::read(&path).unwrap()).next_back().unwrap());
        for (got, want) in header.spacing_mm().iter().zip(expected) {
            assert!((got - want).abs() < 0.01, "{name}: {:?}", header.spacing_mm());
        }
        assert_eq!(warnings.len(), usize::from(!warning.is_empty()), "{name}: {warnings:?}");
        assert!(warnings.iter().all(|w| w.contains(warning) && w.contains(name)), "{warnings:?}");
    }
    // Both forms of the same space, ten millimetres apart.
    let affine = [[1.0, 0.0, 0.0, 10.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let bytes = edited(with_affine(counting().bytes(), &affine), &[(252, &[1])]);
    let path = write(folder.path(), "apart.nii", &bytes);
    let (header, warnings) = warnings_of(|| Header::read(&path).unwrap());
    assert_eq!(header.world_from_voxel()[0][3], 10.0);
    assert!(warnings.len() == 1 && warnings[0].contains("10.0 mm apart"), "{warnings:?}");
}

#[test]
fn bytes_behind_the_last_gzip_member_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let plain = counting().bytes();
    let (one, two) = (gzip(&plain), [gzip(&plain[..400]), gzip(&plain[400..])].concat());
    let table = [
        ("one", one.clone(), ""),
        ("padded", [one.clone(), vec![0; 5000]].concat(), ""),
        ("two_padded", [two.clone(), vec![0; 512]].concat(), ""),
        ("zero", [one.clone(), vec![0]].concat(), ""),
        (
            "rubbish",
            [one.clone(), b"rubbish".to_vec()].concat(),
            "7 bytes after the compressed data are ignored",
        ),
        ("half_magic", [one.clone(), vec![0x1f]].concat(), "1 bytes after"),
        ("late_rubbish", [two, vec![0; 300_000], vec![1]].concat(), "300001 bytes after"),
    ];
    for (name, bytes, warning) in table {
        let path = write(folder.path(), &format!("{name}.nii.gz"), &bytes);
        let (image, warnings) = warnings_of(|| Image::read(&path).unwrap());
        assert_eq!(image.voxels[[0, 1, 2, 3]], 23.0, "{name}");
        assert_eq!(warnings.len(), usize::from(!warning.is_empty()), "{name}: {warnings:?}");
        assert!(warnings.iter().all(|w| w.contains(warning) && w.contains(name)), "{warnings:?}");
    }
    // A truncated member is still an error, also after a complete one.
    for (name, bytes) in [("cut", one[..one.len() - 9].to_vec()), ("cut_second", [&one, &one[..30]].concat())]
    {
        let path = write(folder.path(), &format!("{name}.nii.gz"), &bytes);
        let error = Image::read(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("truncated"), "{error}");
    }
}

#[test]
fn voxels_that_are_not_finite_count_as_the_smallest_of_their_channel() {
    let folder = tempfile::tempdir().unwrap();
    let mut voxels: Vec<f32> = (0..48).map(|voxel| voxel as f32 - 5.0).collect();
    (voxels[3], voxels[7], voxels[30]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let path = Nifti::f32(&[4, 3, 2, 2], &voxels).write(&folder.path().join("holes.nii"));
    let (image, warnings) = warnings_of(|| Image::read(&path).unwrap());
    let stored: Vec<f32> = image.voxels.iter().copied().collect();
    assert_eq!((stored[3], stored[7], stored[30]), (-5.0, -5.0, 19.0));
    assert!(stored.iter().all(|voxel| voxel.is_finite()));
    assert!(warnings.len() == 1 && warnings[0].contains("holes.nii: 3 voxels are NaN"), "{warnings:?}");
    // The network's input is also finite, with statistics over the finite voxels.
    let mut config = config(2, Plane::Window([4, 4]), 2);
    config.normalisation = Normalisation::ZScore;
    let plan = CasePlan::new(&case(&path, None), &config, None).unwrap();
    let (window, again) = warnings_of(|| PreparedCase::open(&plan, &config).unwrap().window(0));
    assert!(window.iter().all(|value| value.is_finite()));
    assert_eq!(again, Vec::<String>::new(), "said once, however often the file is read");
    // A value beyond the range of float32 counts as not finite.
    let doubles: Vec<u8> =
        (0..24).flat_map(|at| if at == 9 { 1e300 } else { f64::from(at) }.to_le_bytes()).collect();
    let bytes = edited(Nifti::u8(&[4, 3, 2], doubles).bytes(), &[(70, &[64, 0, 64, 0])]);
    assert_eq!(Image::read(&write(folder.path(), "double.nii", &bytes)).unwrap().voxels[[0, 0, 2, 1]], 0.0);
    let path = Nifti::f32(&[4, 3, 2], &[f32::NAN; 24]).write(&folder.path().join("empty.nii"));
    assert!(matches!(Image::read(&path), Err(VolumeError::NonFinite { count: 24, .. })));
}

#[test]
fn scaled_labels_are_accepted_within_rounding_and_soft_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let labels = Array3::from_shape_fn(SHAPE, |(x, y, z)| ((x + 2 * y + 3 * z) % 8) as i32);
    let in_file = |labels: &Array3<i32>| labels.view().reversed_axes().iter().copied().collect::<Vec<i32>>();
    // As nibabel stores floats in int16 and uint8: the step is the largest value divided by the range of the type.
    let scaled = |largest: f32, bits: &str| {
        let slope = largest / if bits == "u8" { 255.0 } else { 65535.0 };
        let intercept = if bits == "u8" { 0.0 } else { largest / 2.0 };
        let voxels: Vec<u8> = in_file(&labels)
            .into_iter()
            .map(|label| ((label as f32 - intercept) / slope).round())
            .flat_map(
                |step| if bits == "u8" { vec![step as u8] } else { (step as i16).to_le_bytes().to_vec() },
            )
            .collect();
        let kind: &[u8] = if bits == "u8" { &[2, 0, 8, 0] } else { &[4, 0, 16, 0] };
        let edits = [(70, kind), (112, &slope.to_le_bytes()), (116, &intercept.to_le_bytes())];
        edited(Nifti::u8(&[4, 3, 2], voxels).bytes(), &edits)
    };
    for (name, bytes) in
        [("i16", scaled(7.0, "i16")), ("u8", scaled(7.0, "u8")), ("wide", scaled(2035.0, "i16"))]
    {
        let path = write(folder.path(), &format!("{name}.nii"), &bytes);
        assert_eq!(read_labels(&path).unwrap().0.mapv(i32::from), labels, "{name}");
    }
    let shape = [4, 3, 2];
    let nearly: Vec<f32> = in_file(&labels).iter().map(|&label| label as f32 + 4e-4).collect();
    let path = Nifti::f32(&shape, &nearly).write(&folder.path().join("nearly.nii"));
    assert_eq!(read_labels(&path).unwrap().0.mapv(i32::from), labels);
    // Probabilities: stored as float, and as bytes with a slope.
    let soft = Nifti::f32(&shape, &[0.25; 24]).bytes();
    let steps = edited(
        Nifti::u8(&shape, (0..24).map(|at| at * 10).collect()).bytes(),
        &[(112, &(1f32 / 255.0).to_le_bytes())],
    );
    for (name, bytes, value) in [("soft.nii", soft, "0.25"), ("steps.nii", steps, "0.0392")] {
        let path = write(folder.path(), name, &bytes);
        let error = read_labels(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(value) && error.contains("not an integer"), "{error}");
    }
}

#[test]
fn pairs_are_read_by_either_file_and_found_once_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = edited(counting().bytes(), &[(344, b"ni1\0"), (108, &0f32.to_le_bytes())]);
    let header = write(folder.path(), "scan.hdr", &bytes[..348]);
    let error = Header::read(&header).unwrap_err().to_string();
    assert!(error.contains("scan.hdr") && error.contains(".img"), "{error}");
    let voxels = write(folder.path(), "scan.img", &bytes[352..]);
    write(folder.path(), "MORE.HDR.GZ", &gzip(&bytes[..348]));
    write(folder.path(), "MORE.IMG.GZ", &gzip(&bytes[352..]));
    for path in [&header, &voxels, &folder.path().join("MORE.HDR.GZ"), &folder.path().join("MORE.IMG.GZ")] {
        let image = Image::read(path).unwrap();
        assert_eq!((image.voxels[[0, 1, 2, 3]], image.header.path()), (23.0, path.as_path()));
    }
    let cases = discover(folder.path(), None, 1).unwrap();
    let found: Vec<_> = cases.iter().map(|case| case.case_id.as_str()).collect();
    assert_eq!(found, ["MORE", "scan"]);
    // For a pair, a single file is written.
    let result = folder.path().join("result.nii.gz");
    write_labels(&result, &Array3::ones(SHAPE), &voxels, &ClassTable::of_values([1])).unwrap();
    assert!(read_labels(&result).unwrap().0.iter().all(|&label| label == 1));
    std::fs::write(&voxels, &bytes[352..400]).unwrap();
    assert!(Image::read(&header).unwrap_err().to_string().contains("truncated"));
}

#[test]
fn label_maps_say_that_they_are_and_keep_no_statistic() {
    let folder = tempfile::tempdir().unwrap();
    let edits: [(usize, &[u8]); 9] = [
        (56, &29f32.to_le_bytes()),
        (68, &3i16.to_le_bytes()),
        (120, &[1, 0, 1, 10]), // slice_end, slice_code, millimetres and seconds
        (124, &8f32.to_le_bytes()),
        (132, &[1; 8]),
        (148, b"FSL5.0"),
        (228, b"NIH"),
        (328, b"t-stat"),
        (348, &[1, 0, 0, 0]), // an extension is announced, and none follows
    ];
    let image = write(folder.path(), "tstat.nii", &edited(counting().bytes(), &edits));
    let mut labels = Array3::zeros(SHAPE);
    (labels[[1, 2, 0]], labels[[3, 0, 1]]) = (1, 2);
    let classes = ClassTable::of_names([(7, "left".into()), (250, "right".into())]);
    let result = folder.path().join("labels.nii");
    write_labels(&result, &labels, &image, &classes).unwrap();
    let bytes = std::fs::read(&result).unwrap();
    assert_eq!(i16::from_le_bytes([bytes[68], bytes[69]]), 1002);
    let zeros = [56..68, 74..76, 120..123, 124..140, 228..252, 328..344];
    assert!(zeros.into_iter().flatten().all(|at| bytes[at] == 0));
    assert_eq!((bytes[123], &bytes[148..154]), (10, b"FSL5.0".as_slice()));
    let offset = f32::from_le_bytes([bytes[108], bytes[109], bytes[110], bytes[111]]) as usize;
    let size = i32::from_le_bytes([bytes[352], bytes[353], bytes[354], bytes[355]]) as usize;
    assert_eq!((bytes[348], bytes[356], 352 + size, size % 16), (1, 6, offset, 0));
    let text = std::str::from_utf8(&bytes[360..offset]).unwrap().trim_end_matches('\0');
    let names: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(names, serde_json::json!({ "labels": { "7": "left", "250": "right" } }));
    let written = read_labels(&result).unwrap().0;
    assert_eq!((written[[1, 2, 0]], written[[3, 0, 1]], written[[0, 0, 0]]), (7, 250, 0));
    // Without names there is no extension.
    write_labels(&result, &Array3::zeros(SHAPE), &image, &ClassTable::of_values([])).unwrap();
    assert_eq!(std::fs::read(&result).unwrap()[348..352], [0; 4]);
    let error = write_labels(&result, &labels, &image, &ClassTable::of_values([7])).unwrap_err().to_string();
    assert!(error.contains("labels.nii") && error.contains("class 2"), "{error}");
}
