//! Masks of the images of a live series, on the pixels of the images.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ndarray::{Array3, Axis, s};

use crate::message::control::{LiveCase, LiveImage};
use crate::message::live::Mask;
use crate::report::Wait;
use crate::runtime::clock::now_ns;

/// The writer among the nodes that have worked.
const WRITER: &str = "metrics-writer";

/// A mask with its metadata.
pub(in crate::runtime) struct ImageMask {
    pub mask: Mask,
    /// Class of each pixel, row by row from the first.
    pub pixels: Vec<u8>,
}

/// What the nodes have worked on a case, seconds by node.
pub(in crate::runtime) type Work = BTreeMap<String, f64>;

/// The work with the time that the writer took itself.
pub(in crate::runtime) fn with_own(mut work: Work, own: Duration) -> Work {
    work.insert(WRITER.into(), own.as_secs_f64());
    work
}

/// The masks of the images of a case, from its labels `[x, y, z]`, and how long they took, `work` of which the nodes
/// worked. Volumes hold the rows of an
/// image from the last to the first, as [`crate::dicom`] does.
pub(in crate::runtime) fn masks(
    live: &LiveCase,
    labels: Option<&Array3<u8>>,
    classes: usize,
    work: Work,
) -> (Vec<ImageMask>, Vec<Wait>) {
    let [rows, columns] = live.shape;
    let sent_ns = now_ns();
    let mask = |image: &LiveImage| ImageMask {
        mask: Mask {
            series_id: live.series_id.clone(),
            revision: live.revision,
            index: image.index,
            provisional: live.provisional,
            classes: classes as i64,
            shape: [rows as i64, columns as i64],
            received_ns: image.received_ns,
            sent_ns,
        },
        pixels: match labels.zip(image.slice) {
            Some((labels, slice)) => {
                let rows = labels.index_axis(Axis(2), slice).reversed_axes();
                rows.slice(s![..;-1, ..]).iter().copied().collect()
            }
            None => vec![0; rows * columns],
        },
    };
    let seconds = |from: i64, to: i64| to.saturating_sub(from).max(0) as f64 * 1e-9;
    let work = Arc::new(work);
    let wait = |image: &LiveImage| Wait {
        receive: seconds(image.received_ns, image.arrived_ns),
        queue: seconds(image.arrived_ns, live.planned_ns),
        segmenting: seconds(live.planned_ns, sent_ns),
        work: work.clone(),
    };
    (live.images.iter().map(mask).collect(), live.images.iter().map(wait).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_rows_of_the_images_from_the_first_on() {
        // Two images of 2 rows and 3 columns; the volume has the last row first.
        let mut labels = Array3::<u8>::zeros((3, 2, 2));
        labels[[2, 1, 0]] = 1; // column 2, first row
        labels[[0, 0, 1]] = 2; // column 0, last row
        let image = |index, slice| LiveImage { index, slice, received_ns: 0, arrived_ns: 0 };
        let live = LiveCase {
            series_id: "a".into(),
            revision: 0,
            provisional: true,
            shape: [2, 3],
            images: vec![image(4, Some(1)), image(3, Some(0)), image(9, None)],
            planned_ns: 0,
        };
        let (masks, _) = masks(&live, Some(&labels), 3, Work::new());
        let pixels: Vec<_> = masks.iter().map(|mask| (mask.mask.index, &*mask.pixels)).collect();
        let expected: [(i64, &[u8]); 3] = [(4, &[0, 0, 0, 2, 0, 0]), (3, &[0, 0, 1, 0, 0, 0]), (9, &[0; 6])];
        assert_eq!(pixels, expected);
    }
}
