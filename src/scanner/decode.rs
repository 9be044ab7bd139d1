//! The pixels of images in the spool. Runs on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::spool::ImageFile;
use crate::dicom::{DicomError, Images, Placement};

/// An image to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub series_id: String,
    pub revision: i64,
    /// Place in the order of arrival.
    pub index: usize,
    pub file: ImageFile,
}

/// Reads images. Those of one file are best asked for one after the other.
#[derive(Default)]
pub struct Decoder {
    last: Option<(PathBuf, Images)>,
}

/// An image, or why it cannot be read.
pub struct Decoded {
    pub request: Request,
    pub outcome: Result<(Placement, Vec<f32>), String>,
}

impl Decoder {
    pub fn decode(&mut self, request: Request) -> Decoded {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read(&request)));
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("{}: reading it failed", request.file.path.display())),
        };
        Decoded { request, outcome }
    }

    fn read(&mut self, request: &Request) -> Result<(Placement, Vec<f32>), DicomError> {
        let path = &request.file.path;
        let mut images = match self.last.take() {
            Some((last, images)) if last == *path => images,
            _ => Images::open(path)?,
        };
        let placement = images.placement(request.file.image)?;
        let pixels = images.pixels(request.file.image)?;
        if images.count() > 1 {
            self.last = Some((path.clone(), images));
        }
        Ok((placement, pixels))
    }
}
