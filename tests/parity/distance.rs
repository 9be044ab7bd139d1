//! Distance transforms compared with scipy's.

use ndarray::{Ix2, Ix3};
use self_prompt_sam::array::squared_distance;
use self_prompt_sam::prompt::squared_distance_to_border;

use crate::arrays::Reference;

#[test]
fn distance_transforms_equal_scipy() {
    let reference = Reference::run("edt_reference.py", &[]);
    let (mut planes, mut volumes) = (0, 0);
    for case in reference.cases() {
        let expected = reference.f64(&format!("{case}.distance"));
        if case.starts_with("planes") {
            planes += 1;
            let mask = reference.u8(&format!("{case}.mask")).mapv(|value| value != 0);
            let found = squared_distance_to_border(mask.into_dimensionality::<Ix2>().unwrap().view());
            // Squared distances between pixels are integers, so no tolerance is needed.
            assert_eq!(found.into_dyn(), expected.mapv(|distance| (distance * distance).round()), "{case}");
        } else {
            volumes += 1;
            let sites = reference.u8(&format!("{case}.sites")).mapv(|value| value != 0);
            let spacing_mm = reference.spacing_mm(&format!("{case}.spacing"));
            let found = squared_distance(sites.into_dimensionality::<Ix3>().unwrap().view(), spacing_mm);
            // Rounding of double precision.
            let error = (found.mapv(f64::sqrt).into_dyn() - expected).mapv(f64::abs);
            assert!(error.iter().all(|&error| error < 1e-12), "{case}: {error}");
        }
    }
    assert_eq!((planes, volumes), (19, 20));
}
