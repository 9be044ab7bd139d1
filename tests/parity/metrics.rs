//! Metrics compared with DeepMind's surface-distance.

use std::path::Path;

use ndarray::Ix3;
use self_prompt_sam::metrics::{evaluate_case, surfel_areas};

use crate::arrays::Reference;
use crate::skip::shortened;

#[test]
fn metrics_equal_surface_distance() {
    let acdc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/ACDC");
    let acdc = std::env::var_os("SPSAM_ACDC").map_or(acdc, Into::into);
    let arguments = if acdc.is_dir() {
        vec![acdc.as_path()]
    } else {
        shortened("without real labels: SPSAM_ACDC names the folder of ACDC");
        vec![]
    };
    let reference = Reference::run("metrics_reference.py", &arguments);
    let classes = ["background", "a", "b", "c"].map(String::from);
    let (mut worst, mut count) = ([0.0f64; 3], 0);
    for case in reference.cases().iter().filter(|case| !case.starts_with("areas")) {
        let labels =
            |name: &str| reference.u8(&format!("{case}.{name}")).into_dimensionality::<Ix3>().unwrap();
        let spacing_mm = reference.spacing_mm(&format!("{case}.spacing"));
        let tolerance_mm = reference.f64(&format!("{case}.tolerance"))[[0]];
        let (truth, prediction) = (labels("truth"), labels("prediction"));
        let found =
            evaluate_case(truth.view(), prediction.view(), spacing_mm, &classes, tolerance_mm).unwrap();
        for (found, expected) in found.iter().zip(reference.f64(&format!("{case}.metrics")).outer_iter()) {
            let [dice, hd95_mm, nsd] = [expected[[0]], expected[[1]], expected[[2]]];
            if dice.is_nan() {
                // If a class is absent from both volumes, the reference has no value for Dice and NSD, and an
                // infinite HD95.
                assert!(
                    found.dice.is_nan() && found.hd95_mm.is_nan() && found.nsd.is_nan(),
                    "{case} {found:?}"
                );
                continue;
            }
            let difference =
                |found: f64, expected: f64| if found == expected { 0.0 } else { (found - expected).abs() };
            let differences = [
                difference(found.dice, dice),
                difference(found.hd95_mm, hd95_mm),
                difference(found.nsd, nsd),
            ];
            for ((worst, found), limit) in worst.iter_mut().zip(differences).zip([1e-6, 1e-3, 1e-6]) {
                assert!(found <= limit, "{case}: differs by {differences:?} from {expected}");
                *worst = worst.max(found);
            }
            count += 1;
        }
    }
    println!("{count} classes, largest differences in Dice, HD95 (mm), NSD: {worst:?}");
    assert!(count >= 60);
}

#[test]
fn areas_of_all_neighbour_codes_equal_surface_distance() {
    let reference = Reference::run("metrics_reference.py", &[]);
    for case in reference.cases().iter().filter(|case| case.starts_with("areas")) {
        let areas = surfel_areas(reference.spacing_mm(&format!("{case}.spacing")));
        for (code, &expected) in reference.f64(&format!("{case}.area")).iter().enumerate() {
            // The package numbers the corners in reverse order.
            let area = areas[usize::from((code as u8).reverse_bits())];
            assert!((area - expected).abs() < 1e-9, "{case}, code {code}: {area}, expected {expected}");
        }
    }
}
