//! Resizing of mask logits compared with torch's.

use ndarray::Ix3;
use self_prompt_sam::prompt::resize_bilinear;

use crate::arrays::Reference;

#[test]
fn resizing_equals_torch() {
    let reference = Reference::run("resize_reference.py", &[]);
    let mut worst = 0.0f32;
    for case in reference.cases() {
        let source = reference.f32(&format!("{case}.source")).into_dimensionality::<Ix3>().unwrap();
        let target = reference.f32(&format!("{case}.target")).into_dimensionality::<Ix3>().unwrap();
        let (_, height, width) = target.dim();
        let found = resize_bilinear(source.view(), [height, width]);
        let error = (found - target).iter().fold(0.0f32, |worst, error| worst.max(error.abs()));
        // Single precision, for values up to about 20.
        assert!(error <= 1e-5, "{case}: {error}");
        worst = worst.max(error);
    }
    println!("largest difference to torch: {worst:e}");
}
