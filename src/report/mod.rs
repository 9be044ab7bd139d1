//! What a run leaves for people and programs: `report.html`, `summary.json` and `metrics.csv`.

mod case_part;
mod case_section;
mod html;
mod latency;
mod markup;
mod montage;
mod montage_input;
mod palette;
mod record;
mod results;
mod sections;
mod segmentations;
mod summary;
mod table;
mod view;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use case_part::CasePart;
pub use case_section::{CaseSection, ClassRow, Sides};
pub use html::{Comparison, Report};
pub use latency::{Latencies, LiveFigures, Part, Percentiles, Wait};
pub use markup::page_head;
pub use montage::{Montage, Panel};
pub use montage_input::{MontageConfig, MontageInput};
pub use palette::{CLASS_COLOURS, class_colour};
pub use record::OutputRecord;
pub use results::{Results, label_map_name, result_files};
pub use segmentations::{Segmentations, segmentation_name};
pub use summary::{
    CONVENTIONS, Conventions, FailedCase, ModelInfo, RunSummary, Timings, Versions, now_utc, write_summary,
};
pub use table::write_metrics;

/// Why a report cannot be made or written.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The file cannot be written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A result would overwrite a file that no run has written, or that was changed since.
    #[error(
        "{path}{}: there already, and not as an earlier run has written it; choose another output folder, or --overwrite \
         (SPSAM_OVERWRITE=1)", and_more(*others)
    )]
    Foreign { path: PathBuf, others: usize },
    /// Image, prediction and truth of a montage are not on one grid.
    #[error("montage: {what} has shape {found:?}, the image {expected:?}")]
    Shape { what: &'static str, found: [usize; 3], expected: [usize; 3] },
    /// A volume without voxels, or a voxel without size.
    #[error("montage: {reason}")]
    Grid { reason: String },
    /// A picture cannot be encoded.
    #[error("montage: PNG: {source}")]
    Png { source: image::ImageError },
}

impl ReportError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(" and {others} more"),
    }
}
