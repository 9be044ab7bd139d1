//! Connected components of label maps.

use ndarray::{Array3, Dim, Ix3};

/// Sets everything to background but the largest connected component of the foreground, all classes together; of equals
/// the first in index order. Voxels that share a corner are connected (nnU-Net's `remove_all_but_largest_component`).
pub fn keep_largest_component(labels: &mut Array3<u8>) {
    let mut is_seen = Array3::from_elem(labels.dim(), false);
    let mut waiting = Vec::new();
    let mut largest = (0, Dim([0; 3]));
    for (at, &label) in labels.indexed_iter() {
        if label > 0 && !is_seen[at] {
            let seed = Dim([at.0, at.1, at.2]);
            let voxels = flood(labels, &mut is_seen, seed, true, &mut waiting);
            if voxels > largest.0 {
                largest = (voxels, seed);
            }
        }
    }
    if largest.0 > 0 {
        flood(labels, &mut is_seen, largest.1, false, &mut waiting);
        labels.zip_mut_with(&is_seen, |label, &is_other| *label = if is_other { 0 } else { *label });
    }
}

/// Sets `marks` to `to` in the component of `seed`, where they are its opposite; the component's voxels.
fn flood(
    labels: &Array3<u8>,
    marks: &mut Array3<bool>,
    seed: Ix3,
    to: bool,
    waiting: &mut Vec<Ix3>,
) -> usize {
    let shape = labels.dim();
    let around = |at: usize, length: usize| at.saturating_sub(1)..(at + 2).min(length);
    let mut voxels = 0;
    marks[seed] = to;
    waiting.push(seed);
    while let Some(at) = waiting.pop() {
        voxels += 1;
        for x in around(at[0], shape.0) {
            for y in around(at[1], shape.1) {
                for z in around(at[2], shape.2) {
                    let next = Dim([x, y, z]);
                    if labels[next] > 0 && marks[next] != to {
                        marks[next] = to;
                        waiting.push(next);
                    }
                }
            }
        }
    }
    voxels
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
