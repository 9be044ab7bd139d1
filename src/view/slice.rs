//! An image with its mask, and the message in which a page gets it.
//!
//! The message is binary: the length of a header as UInt32 (little-endian), the header as JSON, then one UInt8 array
//! `[rows, columns]`, row by row from the first, for each name in the header's `layers`: `image` (0 to 255 between the
//! ends of `window`) and `mask` (class of each pixel). A page ignores keys and layers that it does not know.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::picture::Picture;
use crate::dicom::Placement;
use crate::message::live::Mask;

/// An image with its place in space.
#[derive(Debug)]
pub struct Placed {
    pub placement: Placement,
    /// When its last byte arrived, nanoseconds since 1970.
    pub received_ns: i64,
    pub picture: Picture,
}

/// A mask with its metadata.
#[derive(Debug)]
pub struct Labelled {
    pub mask: Mask,
    /// Class of each pixel, row by row.
    pub pixels: Vec<u8>,
}

/// How far the mask of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskState {
    None,
    Provisional,
    Final,
}

/// An image of a series with its mask, as far as they are there.
#[derive(Debug, Clone)]
pub struct Slice {
    pub series_id: String,
    pub revision: i64,
    /// Place in the order of arrival.
    pub index: i64,
    pub image: Option<Arc<Placed>>,
    pub mask: Option<Arc<Labelled>>,
    /// Grey window of the series.
    pub window: [f32; 2],
}

#[derive(Serialize)]
struct Header<'a> {
    kind: &'static str,
    series: &'a str,
    revision: i64,
    index: i64,
    rows: usize,
    columns: usize,
    layers: Vec<&'static str>,
    mask: MaskState,
    window: [f32; 2],
    placement: Option<Place>,
    /// When the last byte of the image arrived and when the mask was sent, nanoseconds since 1970.
    received_ns: Option<i64>,
    sent_ns: Option<i64>,
}

/// Position of the first pixel, directions of a row and of a column (mm, LPS), distances of rows and columns.
#[derive(Serialize)]
struct Place {
    position: [f64; 3],
    orientation: [[f64; 3]; 2],
    spacing: [f64; 2],
    location: f64,
}

/// Where an image lies along its normal, mm.
pub fn location_mm(placement: &Placement) -> f64 {
    let [[a, b, c], [d, e, f]] = placement.orientation;
    let normal = [b * f - c * e, c * d - a * f, a * e - b * d];
    normal.iter().zip(placement.position).map(|(n, p)| n * p).sum()
}

impl Place {
    fn of(placement: &Placement) -> Self {
        Self {
            position: placement.position,
            orientation: placement.orientation,
            spacing: placement.pixel_spacing,
            location: location_mm(placement),
        }
    }
}

impl MaskState {
    /// That of a mask.
    pub fn of(mask: Option<&Labelled>) -> Self {
        match mask {
            None => Self::None,
            Some(labelled) if labelled.mask.provisional => Self::Provisional,
            Some(_) => Self::Final,
        }
    }
}

impl Slice {
    /// The message; `None` if there is neither image nor mask.
    pub fn encode(&self) -> Option<Bytes> {
        let of_mask = |labelled: &Arc<Labelled>| labelled.mask.shape.map(|side| side as usize);
        let of_image = |placed: &Arc<Placed>| [placed.picture.rows, placed.picture.columns];
        let [rows, columns] = self.image.as_ref().map(of_image).or(self.mask.as_ref().map(of_mask))?;
        let layers = [self.image.as_ref().map(|_| "image"), self.mask.as_ref().map(|_| "mask")];
        let received_of_image = self.image.as_ref().map(|placed| placed.received_ns);
        let header = Header {
            kind: "slice",
            series: &self.series_id,
            revision: self.revision,
            index: self.index,
            rows,
            columns,
            layers: layers.into_iter().flatten().collect(),
            mask: MaskState::of(self.mask.as_deref()),
            window: self.window,
            placement: self.image.as_deref().map(|placed| Place::of(&placed.placement)),
            received_ns: received_of_image.or(self.mask.as_ref().map(|labelled| labelled.mask.received_ns)),
            sent_ns: self.mask.as_ref().map(|labelled| labelled.mask.sent_ns),
        };
        let header = serde_json::to_vec(&header).ok()?;
        let length = u32::try_from(header.len()).ok()?;
        let mut message = Vec::with_capacity(4 + header.len() + 2 * rows * columns);
        message.extend(length.to_le_bytes());
        message.extend(header);
        if let Some(placed) = &self.image {
            message.extend(placed.picture.windowed(self.window));
        }
        if let Some(labelled) = &self.mask {
            message.extend_from_slice(&labelled.pixels);
        }
        Some(message.into())
    }
}
