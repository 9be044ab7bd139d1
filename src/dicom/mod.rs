//! DICOM images in: CT and MR series, one image a file or enhanced multi-frame, as volumes on a regular grid.
//! Segmentations of them out (`seg`), and volumes as images of nobody (`mr`), to be sent where a scanner's are expected.
//!
//! ```text
//! folder → Source (a file, checked by scan) → Slice (an image with its position) → split → Volume → FrameReader
//! ```
//!
//! Source: DICOM PS3.3 (C.7.6.2 image plane, C.7.6.16 functional groups, C.11.1 modality LUT) and PS3.5 (encoding).
//! Voxels and geometry are those that dcm2niix gives to the NIfTI of the same series. No attribute that identifies a
//! patient is used, except that `seg` copies those of the source into the segmentation.

mod element;
mod error;
mod folder;
mod frames;
mod geometry;
mod groups;
mod images;
mod instance;
mod mr;
mod mr_object;
mod part10;
mod placement;
mod scan;
pub mod seg;
mod slice;
mod source;
mod split;
mod syntax;
mod vr;

pub(crate) use element::new_uid;
pub use error::DicomError;
pub use folder::{Found, Study, is_dicom, is_series, locate, study};
pub use frames::FrameReader;
pub use geometry::{Numbers, Volume};
pub use images::Images;
pub use mr::{MrSeries, coarsest_axis};
pub use mr_object::{MrObject, Stored};
pub(crate) use part10::implicit;
pub use part10::{InSeries, Part10};
pub use placement::{Arranged, Placement, arrange, world_from_voxel};
pub use slice::{Kind, unit_directions};
pub use syntax::{TRANSFER_SYNTAXES, is_native};
