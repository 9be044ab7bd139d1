//! `spsam plan` on made datasets.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use self_prompt_sam::bundle::{Normalisation, SliceAxis};
use self_prompt_sam::training::TrainingConfig;

/// Makes a dataset in nnU-Net's layout with nibabel: `shape` in voxels of `spacing` mm; a box of class 1 in noise around
/// `level`, in as many channels as there are names.
fn make(folder: &Path, cases: usize, shape: [usize; 3], spacing: [f64; 3], level: i32, channels: &[&str]) {
    let program = "
import json, sys
from pathlib import Path
import nibabel, numpy
folder, cases, shape, spacing, level, channels = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
rng = numpy.random.default_rng(0)
for name in ('imagesTr', 'labelsTr'):
    (folder / name).mkdir(parents=True)
affine = numpy.diag([*spacing, 1.0])
for case in range(cases):
    labels = numpy.zeros(shape, numpy.uint8)
    labels[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / f'labelsTr/p{case}.nii.gz')
    for channel in range(len(channels)):
        image = (level + 100.0 * labels + rng.normal(0, 20, shape)).astype(numpy.int16)
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / f'imagesTr/p{case}_{channel:04}.nii.gz')
(folder / 'dataset.json').write_text(json.dumps({
    'channel_names': {str(i): name for i, name in enumerate(channels)},
    'labels': {'background': 0, 'box': 1}, 'numTraining': cases, 'file_ending': '.nii.gz'}))
";
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".spsam/venv/bin/python");
    let made = Command::new(std::env::var_os("SPSAM_PYTHON").unwrap_or_else(|| python.into()))
        .args(["-c", program])
        .arg(folder)
        .args([cases.to_string(), format!("{shape:?}"), format!("{spacing:?}"), level.to_string()])
        .arg(format!("{channels:?}"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn spsam(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spsam")).args(arguments).output().unwrap()
}

/// The plan of a dataset, as a configuration.
fn plan(dataset: &Path, output: &Path) -> TrainingConfig {
    let planned =
        spsam(&["plan", dataset.to_str().unwrap(), "--hours", "0.1", "--output", output.to_str().unwrap()]);
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
    TrainingConfig::open(&output.join("plan.yml")).unwrap()
}

#[test]
fn two_modalities_and_a_ct_are_planned_and_the_time_is_kept_to() {
    let folder = tempfile::tempdir().unwrap();
    let (two, ct) = (folder.path().join("two"), folder.path().join("ct"));
    make(&two, 5, [40, 48, 5], [1.0, 1.0, 5.0], 300, &["T1", "FLAIR"]);
    let config = plan(&two, &folder.path().join("of-two"));
    assert_eq!((config.model.modalities, config.model.patch.depth), (vec!["T1".into(), "FLAIR".into()], 5));
    assert_eq!(
        (config.model.slice_axis, config.model.normalisation),
        (SliceAxis::Axial, Normalisation::ZScore)
    );
    assert_eq!(config.model.classes, ["background", "box"]);

    make(&ct, 5, [9, 60, 60], [4.0, 0.75, 0.75], -900, &["CT"]);
    let output = folder.path().join("of-ct");
    let config = plan(&ct, &output);
    assert_eq!(
        (config.model.slice_axis, config.model.spacing_mm),
        (SliceAxis::Sagittal, Some([4.0, 0.75, 0.75]))
    );
    let Normalisation::Clip { low, high, mean, std } = config.model.normalisation else {
        panic!("{:?}", config.model.normalisation)
    };
    assert!(low < -840.0 && high > -760.0 && (mean + 800.0).abs() < 2.0 && (std - 20.0).abs() < 2.0);

    let again = spsam(&["plan", ct.to_str().unwrap(), "--output", output.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("plan.yml: exists already"), "{said}");
    fs::remove_dir_all(ct.join("labelsTr")).unwrap();
    let none = spsam(&["plan", ct.to_str().unwrap(), "--output", folder.path().join("x").to_str().unwrap()]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.status.success() && said.lines().any(|line| line.starts_with("error: ")), "{said}");
    assert!(!folder.path().join("x").exists());
}
