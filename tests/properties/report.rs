//! The report of a real heart: its pictures and page, left in the build folder to be looked at.

use std::path::{Path, PathBuf};

use ndarray::{Array3, Ix3, s};
use nifti::{IntoNdArray, NiftiObject, ReaderOptions};
use self_prompt_sam::metrics::{ClassMetrics, ClassSummary};
use self_prompt_sam::report::{
    CaseSection, ClassRow, Conventions, FailedCase, ModelInfo, Montage, MontageConfig, MontageInput, Report,
    RunSummary, Sides, Timings, Versions, class_colour, now_utc,
};

use crate::skip::skipped;

const CLASSES: [&str; 4] = ["background", "right ventricle", "myocardium", "left ventricle"];

/// Voxels `[z, y, x]` and spacing, mm, `[z, y, x]`.
fn read(path: &Path) -> (Array3<f32>, [f64; 3]) {
    let object = ReaderOptions::new().read_file(path).unwrap();
    let [_, dx, dy, dz, ..] = object.header().pixdim.map(f64::from);
    let volume = object.into_volume().into_ndarray::<f32>().unwrap().into_dimensionality::<Ix3>().unwrap();
    (volume.reversed_axes().as_standard_layout().into_owned(), [dz, dy, dx])
}

/// A prediction that is wrong in a way one can see: moved two voxels to the right.
fn moved(truth: &Array3<u8>) -> Array3<u8> {
    let mut prediction = Array3::zeros(truth.dim());
    prediction.slice_mut(s![.., .., 2..]).assign(&truth.slice(s![.., .., ..-2]));
    prediction
}

fn dice(truth: &Array3<u8>, prediction: &Array3<u8>, class: u8) -> f64 {
    let count = |labels: &Array3<u8>| labels.iter().filter(|&&label| label == class).count();
    let both = truth.iter().zip(prediction).filter(|&(&a, &b)| a == class && b == class).count();
    2.0 * both as f64 / (count(truth) + count(prediction)) as f64
}

#[test]
fn a_real_case_becomes_a_page() {
    let patients = std::env::var_os("SPSAM_ACDC")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/ACDC"), PathBuf::from);
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    std::fs::create_dir_all(&out).unwrap();
    let mut report = Report::new(&out, Sides::TRUTH).unwrap();
    let mut cases = 0;
    for patient in ["patient023", "patient012"] {
        let folder = patients.join(patient);
        if !folder.is_dir() {
            skipped("needs the data set ACDC: SPSAM_ACDC names its folder");
            return;
        }
        let case_id = format!("{patient}_frame01");
        let (image, spacing_mm) = read(&folder.join(format!("{case_id}.nii.gz")));
        let truth = read(&folder.join(format!("{case_id}_gt.nii.gz"))).0.mapv(|label| label as u8);
        let prediction = moved(&truth);
        let input = MontageInput {
            image: image.view(),
            prediction: prediction.view(),
            truth: Some(truth.view()),
            spacing_mm,
        };
        let montage = Montage::new(&input, &MontageConfig::default()).unwrap();
        assert_eq!(montage.panels.len(), 8.min(image.len_of(ndarray::Axis(0))));
        for panel in &montage.panels {
            assert!(panel.picture.height() >= 192);
            panel.picture.save(out.join(format!("{case_id}_{:02}.png", panel.slice))).unwrap();
        }
        let middle = &montage.panels[montage.panels.len() / 2].picture;
        for (class, name) in CLASSES.iter().enumerate().skip(1) {
            let colour = class_colour(class).unwrap();
            assert!(middle.pixels().any(|pixel| pixel.0 == colour), "{name}");
        }
        let volume_ml = |labels: &Array3<u8>, class: u8| {
            labels.iter().filter(|&&label| label == class).count() as f64 * spacing_mm.iter().product::<f64>()
                / 1e3
        };
        let classes = (1u8..4)
            .map(|class| ClassRow {
                metrics: ClassMetrics {
                    dice: dice(&truth, &prediction, class),
                    hd95_mm: 2.0 * spacing_mm[2],
                    ..ClassMetrics::undefined(CLASSES[usize::from(class)])
                },
                volume_ml: volume_ml(&prediction, class),
                truth_ml: Some(volume_ml(&truth, class)),
            })
            .collect();
        report.add_case(&CaseSection { case_id, classes, montage: Some(montage) }).unwrap();
        cases += 1;
    }
    let means = ClassSummary {
        dice: 0.9,
        hd95_mm: 2.5,
        hd95_cases: 2,
        hd95_mm_one_sided_as_diagonal: 2.5,
        nsd: f64::NAN,
        absent: 0,
        one_sided: 0,
        missed: 0,
    };
    let summary = RunSummary {
        started: now_utc(),
        cases,
        failed: vec![FailedCase {
            case: "patient999_frame01".into(),
            error: "patient999_frame01.nii.gz: unexpected end of file".into(),
        }],
        dice_mean: 0.9,
        classes: CLASSES[1..].iter().map(|&class| (class.into(), means)).collect(),
        conventions: Conventions,
        model: ModelInfo {
            name: "heart".into(),
            backbone: "lite_medsam".into(),
            image_size: 256,
            classes: CLASSES.map(String::from).to_vec(),
            label_values: vec![0, 1, 2, 3],
            weights_sha256: "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76".into(),
            adapters_sha256: None,
        },
        device: "cpu".into(),
        versions: Versions {
            self_prompt_sam: env!("CARGO_PKG_VERSION").into(),
            dora: "1.1.0".into(),
            torch: "2.11.0".into(),
            tch: "0.24.0".into(),
        },
        live: None,
        timings: Timings {
            seconds_total: 12.5,
            seconds_per_case: 6.25,
            slices_per_second: 1.6,
            time_to_first_result_s: 5.1,
            command_to_first_result_s: 4.0,
            seconds_export: 1.2,
        },
    };
    let page = out.join("report.html");
    report.write(&page, &summary).unwrap();
    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("data:image/png;base64,").count(), cases * 8);
    println!("{} ({} KiB)", page.display(), html.len() / 1024);
}
