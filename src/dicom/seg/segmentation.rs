//! What a segmentation object is made of.

use std::path::PathBuf;

use ndarray::ArrayView3;

use crate::bundle::ClassCodes;

/// An image of a volume: a frame (from 0) of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    pub path: PathBuf,
    pub frame: usize,
}

/// What is written.
#[derive(Debug, Clone, Copy)]
pub struct Segmentation<'a> {
    /// Images of the volume in its order ([`crate::dicom::Volume::images`]), all of one series.
    pub images: &'a [ImageFile],
    /// Labels `[x, y, z]` on the grid of the volume: 0 is the background, k the segment k - 1.
    pub labels: ArrayView3<'a, u8>,
    /// The classes without the background. Those that are nowhere are listed, too.
    pub segments: &'a [Segment],
    pub model: &'a Model,
}

/// A class.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    pub name: String,
    pub codes: ClassCodes,
    /// Recommended colour, sRGB.
    pub colour: [u8; 3],
}

/// What made the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub name: String,
    /// Tells models with the same name apart, such as a hash of the weights.
    pub id: String,
    /// Whether a person gave the prompts.
    pub is_prompted: bool,
}
