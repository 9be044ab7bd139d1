//! Which components of a label map are kept.

use ndarray::{Array3, s};

use crate::array::connected_runs;

/// Keeps only the largest connected component of the foreground (all classes together; the first in index order in
/// case of a tie) and sets everything else to background. Voxels that share a corner are connected (nnU-Net's
/// `remove_all_but_largest_component`).
pub fn keep_largest_component(labels: &mut Array3<u8>) {
    let foreground = labels.mapv(|label| u8::from(label > 0));
    let runs = connected_runs(foreground.view());
    let mut voxels = vec![0; runs.len()];
    for run in runs.iter().filter(|run| run.class > 0) {
        voxels[run.component] += run.length();
    }
    let most = voxels.iter().copied().max().unwrap_or_default();
    let largest = voxels.iter().position(|&voxels| voxels == most);
    for run in runs.iter().filter(|run| run.class > 0 && Some(run.component) != largest) {
        let [x, y] = run.row;
        labels.slice_mut(s![x, y, run.first..=run.last]).fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_component_stays_with_all_its_classes() {
        let mut labels = Array3::<u8>::zeros((6, 5, 4));
        for (at, label) in [([0, 0, 0], 1), ([1, 1, 1], 2), ([2, 0, 0], 1), ([4, 4, 3], 1), ([5, 4, 3], 2)] {
            labels[at] = label;
        }
        let mut expected = labels.clone();
        expected[[4, 4, 3]] = 0;
        expected[[5, 4, 3]] = 0;
        keep_largest_component(&mut labels);
        assert_eq!(labels, expected);
    }

    #[test]
    fn of_equals_the_first_stays_and_nothing_stays_nothing() {
        let mut labels = Array3::<u8>::zeros((1, 1, 5));
        keep_largest_component(&mut labels);
        assert_eq!(labels, Array3::<u8>::zeros((1, 1, 5)));
        labels[[0, 0, 1]] = 3;
        labels[[0, 0, 4]] = 3;
        keep_largest_component(&mut labels);
        assert_eq!(labels.as_slice().unwrap_or_default(), [0_u8, 3, 0, 0, 0]);
    }
}
