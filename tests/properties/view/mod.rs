//! The live view: what is kept of series, what is sent to pages, and who may see it.

mod page;
mod store;

use self_prompt_sam::dicom::{Kind, Placement};
use self_prompt_sam::message::live::{Frame, Mask};

fn frame(series: &str, revision: i64, index: i64, [rows, columns]: [usize; 2]) -> Frame {
    Frame {
        series_id: series.into(),
        revision,
        index,
        received_ns: 1_000 + index,
        placement: Placement {
            rows,
            columns,
            // The later an image arrives, the lower it lies.
            position: [0.0, 0.0, -2.5 * index as f64],
            orientation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            pixel_spacing: [0.5, 0.75],
            thickness: 2.5,
            kind: Kind::default(),
        },
    }
}

fn mask(series: &str, revision: i64, index: i64, [rows, columns]: [usize; 2], provisional: bool) -> Mask {
    Mask {
        series_id: series.into(),
        revision,
        index,
        provisional,
        classes: 3,
        shape: [rows as i64, columns as i64],
        received_ns: 1_000 + index,
        sent_ns: 2_000,
    }
}
