//! Where an image lies. MRD and DICOM use the same system of coordinates (LPS, millimetres); rows run along `read_dir`,
//! columns along `phase_dir`.

use super::header::ImageHeader;
use crate::dicom::{Placement, unit_directions};

/// Directions whose length differs more from 1 say nothing.
const LENGTH: f64 = 1e-2;

/// What `position` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Position {
    /// The centre of the image, in three dimensions that of the volume. Scanners send this.
    #[default]
    Centre,
    /// The centre of the first pixel. Files that were converted from DICOM may have this.
    Corner,
}

impl Position {
    /// `centre` or `corner`.
    ///
    /// # Errors
    /// Another text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" | "centre" => Ok(Self::Centre),
            "corner" => Ok(Self::Corner),
            other => Err(format!("`{other}` is neither centre nor corner")),
        }
    }

    /// The centre of the first pixel of slice `slice` of `header`: `extent` is the way to the opposite corner pixel of a
    /// slice, `step` that to the next slice.
    fn first_pixel(self, header: &ImageHeader, extent: [f64; 3], step: [f64; 3], slice: usize) -> [f64; 3] {
        let slices = f64::from(header.matrix_size[2]);
        let position = header.position.map(f64::from);
        [0, 1, 2].map(|axis| match self {
            Self::Centre => {
                position[axis] - extent[axis] / 2.0 + (slice as f64 - (slices - 1.0) / 2.0) * step[axis]
            }
            Self::Corner => position[axis] + slice as f64 * step[axis],
        })
    }
}

/// Size and place of every slice of an image, without its kind.
///
/// # Errors
/// Says which field makes no sense: no pixels, a field of view that is not above 0, directions that are not perpendicular,
/// no number.
pub fn placements(header: &ImageHeader, convention: Position) -> Result<Vec<Placement>, String> {
    let [columns, rows, slices] = header.matrix_size.map(usize::from);
    if [columns, rows, slices].contains(&0) {
        return Err("an image without pixels".into());
    }
    let view = header.field_of_view.map(f64::from);
    if view.iter().any(|size| !size.is_finite() || *size <= 0.0) {
        return Err("an image whose field of view is not above 0".into());
    } else if !header.position.iter().all(|part| part.is_finite()) {
        return Err("an image whose position is no number".into());
    }
    let directions = [header.read_dir, header.phase_dir].map(|direction| direction.map(f64::from));
    let orientation = unit_directions(directions)
        .ok_or("an image whose read and phase directions are not perpendicular and of length 1")?;
    let [across, down] = [view[0] / columns as f64, view[1] / rows as f64];
    let thickness = view[2] / slices as f64;
    let step = match slices {
        1 => [0.0; 3],
        _ => slice_direction(header)?.map(|part| part * thickness),
    };
    let (right, below) = (across * (columns - 1) as f64, down * (rows - 1) as f64);
    let extent = [0, 1, 2].map(|axis| orientation[0][axis] * right + orientation[1][axis] * below);
    let placement = |slice| Placement {
        rows,
        columns,
        position: convention.first_pixel(header, extent, step, slice),
        orientation,
        pixel_spacing: [down, across],
        thickness,
        kind: Default::default(),
    };
    Ok((0..slices).map(placement).collect())
}

fn slice_direction(header: &ImageHeader) -> Result<[f64; 3], String> {
    let direction = header.slice_dir.map(f64::from);
    let length = direction.iter().map(|part| part * part).sum::<f64>().sqrt();
    let is_direction = (length - 1.0).abs() < LENGTH;
    is_direction
        .then(|| direction.map(|part| part / length))
        .ok_or_else(|| "a volume whose slice direction has not the length 1".into())
}
