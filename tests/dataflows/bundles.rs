//! The shipped bundles run through `infer.yml` without prompts.

use std::fs;
use std::path::{Path, PathBuf};

use self_prompt_sam::volume::{Header, read_labels};

use super::golden;
use super::harness::{Bench, project};
use super::skip::skipped;

const ANTERIOR: u8 = 1;
/// Regions of `cargo xtask demo`.
const REGIONS: &str = "left=-44,-46,-32,-9,6,6;right=9,-46,-32,44,6,6";

/// Position (mm, RAS) of the mean voxel with one of `labels`, and the volume of all these voxels, ml.
fn centre_and_volume(path: &Path, labels: &[u8]) -> ([f64; 3], f64) {
    let (voxels, spacing_mm) = read_labels(path).unwrap();
    let world = Header::read(path).unwrap().world_from_voxel();
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for (index, _) in voxels.indexed_iter().filter(|(_, label)| labels.contains(label)) {
        let voxel = [index.0, index.1, index.2].map(|place| place as f64);
        for axis in 0..3 {
            sum[axis] +=
                world[axis][3] + (0..3).map(|column| world[axis][column] * voxel[column]).sum::<f64>();
        }
        count += 1.0;
    }
    assert!(count > 0.0, "{}: nothing is labelled", path.display());
    (sum.map(|sum| sum / count), count * spacing_mm.iter().product::<f64>() / 1000.0)
}

#[test]
fn both_hippocampi_of_the_mni152_head_are_found_without_a_prompt() {
    let sample = project().join(".spsam/sample/mni152_t1.nii.gz");
    let bench = Bench::alone(0, 0);
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let settings = [
        ("SPSAM_MODEL", &*project().join("models/hippocampus").display().to_string()),
        ("SPSAM_INPUT", &*sample.display().to_string()),
        ("SPSAM_LABELS", ""),
        ("SPSAM_ROI", REGIONS),
        ("SPSAM_PRECISION", &*golden::precision()),
    ];
    let mut run = bench.start(&flow, "mni", &settings);
    assert!(run.finish().success(), "{}", run.log());
    for (side, expected_x) in [("left", -26.0), ("right", 26.0)] {
        let path = bench.path(&format!("mni/mni152_t1_{side}.nii.gz"));
        golden::check(&format!("hippocampus_{side}"), &path);
        let (centre, volume_ml) = centre_and_volume(&path, &[1, 2]);
        let [anterior, posterior] = [ANTERIOR, 2].map(|label| centre_and_volume(&path, &[label]).0);
        println!(
            "{side}: {volume_ml:.2} ml at {centre:.1?} mm, anterior {anterior:.1?}, posterior {posterior:.1?}"
        );
        assert!((2.0..=5.0).contains(&volume_ml), "{side}: {volume_ml} ml");
        // The hippocampus lies around (±26, -21, -14) mm in MNI space.
        let distance: f64 = centre
            .iter()
            .zip([expected_x, -21.0, -14.0])
            .map(|(found, at)| (found - at) * (found - at))
            .sum();
        assert!(distance.sqrt() < 8.0, "{side}: {centre:?}");
        assert!(anterior[1] > posterior[1] + 5.0, "{side}: the anterior part lies in front");
    }
    let report = fs::read_to_string(bench.path("mni/report.html")).unwrap();
    assert!(report.contains("<td>Together</td>") && report.matches("<figure>").count() > 2);
}

#[test]
fn the_hippocampus_bundle_segments_cases_that_it_has_not_seen() {
    let data = std::env::var_os("SPSAM_DATA")
        .map_or_else(|| project().join("../shared/data"), PathBuf::from)
        .join("Task04_Hippocampus");
    let Ok(entries) = fs::read_dir(data.join("imagesTr")) else {
        skipped("needs the data set Task04_Hippocampus: SPSAM_DATA names the folder that holds it");
        return;
    };
    let mut images: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path().canonicalize().unwrap())
        .filter(|path| path.to_string_lossy().contains("hippocampus_"))
        .collect();
    images.sort();
    // Every tenth case is a validation case; every third of these is enough here.
    let list: Vec<String> = images.iter().step_by(30).map(|path| path.display().to_string()).collect();
    let bench = Bench::alone(0, 0);
    fs::write(bench.path("list.txt"), list.join("\n")).unwrap();
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let settings = [
        ("SPSAM_MODEL", &*project().join("models/hippocampus").display().to_string()),
        ("SPSAM_INPUT", &*bench.path("list.txt").display().to_string()),
        ("SPSAM_LABELS", &*data.join("labelsTr").canonicalize().unwrap().display().to_string()),
        ("SPSAM_PRECISION", "auto"),
    ];
    let mut run = bench.start(&flow, "validation", &settings);
    assert!(run.finish().success(), "{}", run.log());
    let dice = run.summary()["dice_mean"].as_f64().unwrap();
    println!("Dice {dice:.4} over {} cases", list.len());
    assert!(dice > 0.8, "{dice}");
}
