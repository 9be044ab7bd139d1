//! Connected components compared with scipy's.

use ndarray::Ix3;
use self_prompt_sam::volume::keep_largest_component;

use crate::arrays::Reference;

#[test]
fn the_largest_component_is_that_of_scipy() {
    let reference = Reference::run("components_reference.py", &[]);
    let (mut volumes, mut changed) = (0, 0);
    for case in reference.cases() {
        let mut labels = reference.u8(&format!("{case}.labels")).into_dimensionality::<Ix3>().unwrap();
        let before = labels.clone();
        keep_largest_component(&mut labels);
        assert_eq!(labels.clone().into_dyn(), reference.u8(&format!("{case}.largest")), "{case}");
        volumes += 1;
        changed += usize::from(labels != before);
    }
    assert!(volumes == 24 && changed > 10, "{changed} of {volumes} lost something");
}
