//! Golden label maps of both shipped bundles, so that no change alters results unnoticed: a synthetic heart, and the
//! hippocampi of the sample that set-up installs (`bundles.rs`).
//!
//! They are in `tests/golden`. After a change that is meant to alter results, write them again and give the reason
//! in the commit: `SPSAM_UPDATE_GOLDEN=1 cargo test --release --test dataflows -- golden without_a_prompt`.

use std::fs;
use std::path::{Path, PathBuf};

use self_prompt_sam::compute::Compute;
use self_prompt_sam::volume::{Header, read_labels};
use tch::{Device, Kind};

use super::harness::{Bench, project};
use super::nifti::Nifti;

/// Fraction of the labelled voxels that may differ on a machine that computes in bf16, as for the golden label maps.
const SAME_PRECISION: f64 = 0.005;
/// The same on a machine that computes in fp32, where 1.4 % of the heart differ.
const OTHER_PRECISION: f64 = 0.03;

/// The machine's default, unless the environment asks for another precision.
pub fn precision() -> String {
    std::env::var("SPSAM_PRECISION").unwrap_or_else(|_| "auto".into())
}

/// Fails unless the label map `found` has the geometry and, within the tolerance, the labels of
/// `tests/golden/<name>.nii.gz`.
pub fn check(name: &str, found: &Path) {
    let golden = project().join("tests/golden").join(format!("{name}.nii.gz"));
    if std::env::var_os("SPSAM_UPDATE_GOLDEN").is_some() {
        fs::copy(found, &golden).unwrap();
    }
    let [found, expected] = [found, &golden].map(|path| {
        let (labels, spacing_mm) = read_labels(path).unwrap();
        let world = Header::read(path).unwrap().world_from_voxel();
        (labels, spacing_mm, world)
    });
    assert_eq!((found.0.dim(), found.1, found.2), (expected.0.dim(), expected.1, expected.2), "{name}");
    let labelled = expected.0.iter().filter(|&&label| label != 0).count();
    let different = found.0.iter().zip(&expected.0).filter(|(found, expected)| found != expected).count();
    println!("{name}: {different} of {labelled} labelled voxels differ");
    let compute = Compute::new(Device::Cpu, precision().parse().unwrap());
    let tolerance = if compute.kind == Kind::BFloat16 { SAME_PRECISION } else { OTHER_PRECISION };
    assert!(
        different as f64 <= tolerance * labelled as f64,
        "{name}: {different} of {labelled} labelled voxels differ from {}",
        golden.display()
    );
}

/// Voxels of the heart, [x, y, z], 1.5 × 1.5 × 10 mm as in ACDC.
const SHAPE: [usize; 3] = [112, 104, 7];
const SPACING_MM: [f32; 3] = [1.5, 1.5, 10.0];

/// Short axis of a heart in cine MRI: bright blood, darker muscle, dark lung.
fn brightness([x, y, z]: [usize; 3]) -> f64 {
    let [x, y, z] = [x, y, z].map(|index| index as f64);
    // From base to apex the ventricles become narrower and move.
    let along = z / (SHAPE[2] - 1) as f64;
    let (left, right) = ([62.0 + 3.0 * along, 52.0 + 4.0 * along], [40.0 + 6.0 * along, 49.0 + 5.0 * along]);
    let distance =
        |centre: [f64; 2], radius: [f64; 2]| ((x - centre[0]) / radius[0]).hypot((y - centre[1]) / radius[1]);
    let cavity = 15.0 - 6.0 * along;
    if distance(left, [cavity; 2]) < 1.0 {
        210.0
    } else if distance(left, [cavity + 6.5; 2]) < 1.0 {
        70.0
    } else if distance(right, [19.0 - 9.0 * along, 23.0 - 9.0 * along]) < 1.0 {
        190.0
    } else if distance([54.0, 51.0], [36.0, 34.0]) < 1.0 {
        95.0
    } else if distance([55.0, 52.0], [46.0, 41.0]) < 1.0 {
        25.0
    } else {
        140.0
    }
}

/// Noise of a standard deviation of about 8, the same on every machine.
fn noise(state: &mut u32) -> f64 {
    let mut sum = 0.0;
    for _ in 0..4 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        sum += f64::from(*state >> 16) / 65536.0 - 0.5;
    }
    sum * 14.0
}

/// Writes the heart as a NIfTI-1 file, stored as ACDC's: x to the left, y to the front of the patient.
fn write_heart(path: &Path) {
    let [dx, dy, dz] = SPACING_MM;
    let mut state = 1;
    let mut voxels = Vec::new();
    for z in 0..SHAPE[2] {
        for y in 0..SHAPE[1] {
            for x in 0..SHAPE[0] {
                let value = brightness([x, y, z]) + noise(&mut state);
                voxels.extend((value.round() as i16).to_le_bytes());
            }
        }
    }
    let heart = Nifti {
        spacing_mm: SPACING_MM,
        world_from_voxel: [[-dx, 0.0, 0.0, 80.0], [0.0, -dy, 0.0, 90.0], [0.0, 0.0, dz, -35.0]],
        ..Nifti::new(&SHAPE.map(|side| side as i16), 4, voxels) // int16
    };
    heart.write(path);
}

#[test]
fn the_heart_bundle_gives_the_golden_label_map() {
    let bench = Bench::alone(0, 0);
    let heart = bench.path("images/heart.nii");
    write_heart(&heart);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let model: PathBuf = project().join("models/acdc");
    let settings = [
        ("SPSAM_MODEL", &*model.display().to_string()),
        ("SPSAM_LABELS", ""),
        ("SPSAM_PRECISION", &*precision()),
    ];
    let mut run = bench.start(&flow, "heart", &settings);
    assert!(run.finish().success(), "{}", run.log());
    let found = fs::read_dir(bench.path("heart")).unwrap().flatten().map(|entry| entry.path());
    let found = found.into_iter().find(|path| path.to_string_lossy().contains(".nii")).unwrap();
    check("heart", &found);
}
