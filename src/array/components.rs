//! Connected components of label arrays (union-find over the runs of their rows).

use std::ops::Range;

use ndarray::ArrayView3;

/// Adjacent elements of one class along the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Their class.
    pub class: u8,
    /// Indices along the first two axes.
    pub row: [usize; 2],
    /// Index of the first element along the last axis.
    pub first: usize,
    /// Index of the last element.
    pub last: usize,
    /// Index of the first run of its component.
    pub component: usize,
}

impl Run {
    /// Number of elements.
    pub fn length(&self) -> usize {
        self.last - self.first + 1
    }
}

/// The runs of all rows in index order, each with its component. Elements of one class that share a corner are
/// connected.
pub fn connected_runs(labels: ArrayView3<'_, u8>) -> Vec<Run> {
    let (planes, rows, _) = labels.dim();
    let mut runs: Vec<Run> = Vec::new();
    let mut places: Vec<Range<usize>> = Vec::with_capacity(planes * rows);
    for ((plane, row), elements) in
        (0..planes).flat_map(|plane| (0..rows).map(move |row| (plane, row))).zip(labels.rows())
    {
        let start = runs.len();
        for (x, &class) in elements.iter().enumerate() {
            match runs[start..].last_mut() {
                Some(run) if run.class == class => run.last = x,
                _ => runs.push(Run { class, row: [plane, row], first: x, last: x, component: runs.len() }),
            }
        }
        for other in rows_before(plane, row, rows) {
            connect(&mut runs, places[other].clone(), start);
        }
        places.push(start..runs.len());
    }
    for run in 0..runs.len() {
        runs[run].component = first_of(&mut runs, run);
    }
    runs
}

/// The preceding rows that touch a row.
fn rows_before(plane: usize, row: usize, rows: usize) -> impl Iterator<Item = usize> {
    let beside = row.saturating_sub(1)..(row + 2).min(rows);
    let of_plane_before = plane.checked_sub(1).map(|plane| beside.map(move |row| plane * rows + row));
    let row_before = row.checked_sub(1).map(|row| plane * rows + row);
    of_plane_before.into_iter().flatten().chain(row_before)
}

/// Joins the runs from `start` on with the runs `above` (of another row) that they touch.
fn connect(runs: &mut [Run], above: Range<usize>, start: usize) {
    let mut next = above.start;
    for run in start..runs.len() {
        // Runs that touch at a corner are connected, so a run of the row above can connect to two runs of this row.
        while next < above.end && runs[next].last + 1 < runs[run].first {
            next += 1;
        }
        let mut other = next;
        while other < above.end && runs[other].first <= runs[run].last + 1 {
            if runs[other].class == runs[run].class {
                join(runs, other, run);
            }
            other += 1;
        }
    }
}

fn join(runs: &mut [Run], a: usize, b: usize) {
    let (a, b) = (first_of(runs, a), first_of(runs, b));
    runs[a.max(b)].component = a.min(b);
}

/// Index of the first run of a run's component. Shortens the path to it.
fn first_of(runs: &mut [Run], mut run: usize) -> usize {
    while runs[run].component != run {
        runs[run].component = runs[runs[run].component].component;
        run = runs[run].component;
    }
    run
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    /// The component of each element, as the smallest index of its elements, found by spreading the index until
    /// nothing changes.
    fn expected(labels: &Array3<u8>) -> Array3<usize> {
        let (planes, rows, columns) = labels.dim();
        let index = |(z, y, x): (usize, usize, usize)| (z * rows + y) * columns + x;
        let mut smallest = Array3::from_shape_fn(labels.dim(), index);
        let around = |at: usize, length: usize| at.saturating_sub(1)..(at + 2).min(length);
        loop {
            let before = smallest.clone();
            for ((z, y, x), label) in labels.indexed_iter() {
                for near_z in around(z, planes) {
                    for near_y in around(y, rows) {
                        for near_x in around(x, columns) {
                            let near = [near_z, near_y, near_x];
                            if labels[near] == *label {
                                smallest[[z, y, x]] = smallest[[z, y, x]].min(smallest[near]);
                            }
                        }
                    }
                }
            }
            if smallest == before {
                return smallest;
            }
        }
    }

    #[test]
    fn components_equal_those_of_an_exhaustive_search() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below) as usize
        };
        for _ in 0..200 {
            let (shape, classes) = ([1 + random(4), 1 + random(6), 1 + random(7)], 2 + random(3) as u64);
            let labels = Array3::from_shape_simple_fn(shape, || random(classes) as u8);
            let expected = expected(&labels);
            let runs = connected_runs(labels.view());
            let mut elements = 0;
            for run in &runs {
                let first = &runs[run.component];
                for x in run.first..=run.last {
                    assert_eq!(labels[[run.row[0], run.row[1], x]], run.class);
                    let smallest = (first.row[0] * shape[1] + first.row[1]) * shape[2] + first.first;
                    assert_eq!(expected[[run.row[0], run.row[1], x]], smallest, "{labels}");
                }
                elements += run.length();
            }
            assert_eq!(elements, labels.len());
        }
    }
}
