//! Input and output of volumes: finding cases, reading and writing NIfTI, reading DICOM, orientation, resampling, intensity
//! normalisation, windows, and assembling labels from windows.
//!
//! ```text
//! discover → CaseFiles ─ CasePlan::new → CasePlan ─┬─ PreparedCase::open → window(k), label_window(k)
//!                                                  └─ LabelAssembler::new → push(k, logits) → write_labels
//! ```
//!
//! A case in two passes: [`CasePlan::search`] and [`CasePlan::around`].
//!
//! Arrays "as stored" are `[x, y, z]`. Everything the network sees is `[z, y, x]`, more precisely `[slice, row,
//! column]` (see [`Grid`]).

mod affine;
mod align;
mod assemble;
mod boxes;
mod case;
mod classes;
mod components;
pub mod dataset;
mod error;
mod extension;
mod forms;
mod from_dicom;
mod grid;
mod grid_difference;
mod gzip;
mod header;
mod ignore;
mod image;
mod interpolation;
mod label_files;
mod locate;
mod normalise;
mod open;
mod plan;
mod raw_header;
mod warnings;
mod windows;
mod write;

pub use affine::{Affine, column_norms};
pub use align::{Regrid, TargetGrid, check_grid};
pub use assemble::LabelAssembler;
pub use case::PreparedCase;
pub use classes::{ClassTable, LabelClass};
pub use components::{KeptComponents, keep_largest_component, keep_largest_component_of};
pub use dataset::{CaseFiles, Discovery, LeftOut, discover};
pub use error::VolumeError;
pub use extension::names_of_classes;
pub use from_dicom::write_series;
pub use grid::{BoxMm, Grid, orientation_code};
pub use header::Header;
pub use ignore::{IgnoreValues, USUAL_IGNORE_VALUE, erase};
pub use image::{Image, read_labels, read_labels_on};
pub use interpolation::Interpolation;
pub use label_files::{LabelFiles, MaskFile, masks_of_classes, number_masks};
pub use locate::{VoxelBox, foreground_box};
pub use normalise::{Rescaling, normalise};
pub use plan::{CasePlan, PlanOptions};
pub use warnings::mute_warnings;
pub use write::write_labels;
