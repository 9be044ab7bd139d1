//! Label maps as DICOM Segmentation objects (binary): one file, with a frame for each segment and image in which the
//! segment is, on the pixels of the images.
//!
//! Source: DICOM PS3.3 A.51 (IOD), C.8.20 (modules), C.7.6.16 and C.7.6.17 (functional groups, dimensions); PS3.5 8.2
//! (pixels of one bit).

mod context;
mod frames;
mod groups;
mod segmentation;
mod segments;
mod source;
mod write;

pub use segmentation::{ImageFile, Model, Segment, Segmentation};
pub use write::write;
