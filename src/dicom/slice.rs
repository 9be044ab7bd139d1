//! An image of a file with its place in space, and what distinguishes it from others at the same place.

use std::sync::Arc;

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::groups::Groups;
use super::source::Source;

/// A single image.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub source: Arc<Source>,
    /// Frame of the file, from 0.
    pub frame: usize,
    /// Centre of the first pixel, mm (LPS: +x left, +y back, +z top).
    pub position: [f64; 3],
    /// Directions of a row (along which the column index grows) and of a column.
    pub orientation: [[f64; 3]; 2],
    /// Distances of rows and of columns, mm.
    pub pixel_spacing: [f64; 2],
    /// Distance to the next slice, mm, if there is only this one.
    pub thickness: f64,
    /// Slope and intercept.
    pub rescale: (f64, f64),
    pub kind: Kind,
}

/// What distinguishes images at the same place. Texts are compared only.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kind {
    /// Codes such as `ORIGINAL\PRIMARY\M`.
    pub image_type: String,
    pub echo_time: Option<f64>,
    pub temporal_position: Option<f64>,
    pub b_value: Option<f64>,
    pub acquisition: Option<f64>,
    pub trigger_time: Option<f64>,
}

impl Slice {
    /// Reads the attributes of frame `frame`.
    ///
    /// # Errors
    /// Says which attribute is missing or wrong.
    pub fn read(file: &InMemDicomObject, source: &Arc<Source>, frame: usize) -> Result<Self, String> {
        let groups = Groups::of_frame(file, frame);
        let missing = |name: &str| format!("no valid {name}: the image does not say where it lies in space");
        let position = groups
            .numbers(tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION_PATIENT)
            .ok_or_else(|| missing("Image Position (Patient)"))?;
        let [a, b, c, d, e, f] = groups
            .numbers(tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION_PATIENT)
            .ok_or_else(|| missing("Image Orientation (Patient)"))?;
        let orientation = unit_directions([[a, b, c], [d, e, f]])
            .ok_or("Image Orientation (Patient) has directions that are not perpendicular")?;
        let measures = tags::PIXEL_MEASURES_SEQUENCE;
        let pixel_spacing = groups
            .numbers(measures, tags::PIXEL_SPACING)
            .filter(|spacing: &[f64; 2]| spacing.iter().all(|&size| size > 0.0))
            .ok_or_else(|| missing("Pixel Spacing"))?;
        let length = |tag| groups.number(measures, tag, tag).filter(|&length| length > 0.0);
        let thickness =
            length(tags::SPACING_BETWEEN_SLICES).or_else(|| length(tags::SLICE_THICKNESS)).unwrap_or(1.0);
        let transformation = tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE;
        let rescaling = |tag| groups.number(transformation, tag, tag);
        let rescale = (
            rescaling(tags::RESCALE_SLOPE).filter(|&slope| slope != 0.0).unwrap_or(1.0),
            rescaling(tags::RESCALE_INTERCEPT).unwrap_or(0.0),
        );
        let kind = Kind::read(&groups);
        Ok(Self {
            source: source.clone(),
            frame,
            position,
            orientation,
            pixel_spacing,
            thickness,
            rescale,
            kind,
        })
    }

    /// Direction from slice to slice.
    pub fn normal(&self) -> [f64; 3] {
        normal(&self.orientation)
    }

    /// The file, and the frame if it has several.
    pub fn name(&self) -> String {
        let file = self.source.path.file_name().unwrap_or_default().to_string_lossy();
        match self.source.frames {
            1 => file.into_owned(),
            _ => format!("{file} frame {}", self.frame + 1),
        }
    }
}

impl Kind {
    fn read(groups: &Groups) -> Self {
        let frame_type = |group| groups.text(group, tags::FRAME_TYPE, tags::IMAGE_TYPE);
        let plain = groups.text(tags::MR_IMAGE_FRAME_TYPE_SEQUENCE, tags::FRAME_TYPE, tags::FRAME_TYPE);
        Self {
            image_type: match plain.is_empty() {
                true => frame_type(tags::CT_IMAGE_FRAME_TYPE_SEQUENCE),
                false => plain,
            },
            echo_time: groups.number(tags::MR_ECHO_SEQUENCE, tags::EFFECTIVE_ECHO_TIME, tags::ECHO_TIME),
            temporal_position: groups.number(
                tags::FRAME_CONTENT_SEQUENCE,
                tags::TEMPORAL_POSITION_INDEX,
                tags::TEMPORAL_POSITION_IDENTIFIER,
            ),
            b_value: groups.number(
                tags::MR_DIFFUSION_SEQUENCE,
                tags::DIFFUSION_B_VALUE,
                tags::DIFFUSION_B_VALUE,
            ),
            acquisition: groups.number(
                tags::FRAME_CONTENT_SEQUENCE,
                tags::FRAME_ACQUISITION_NUMBER,
                tags::ACQUISITION_NUMBER,
            ),
            trigger_time: groups.number(
                tags::CARDIAC_SYNCHRONIZATION_SEQUENCE,
                tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME,
                tags::TRIGGER_TIME,
            ),
        }
    }
}

/// Direction perpendicular to the directions of rows and columns.
pub(super) fn normal(&[[a, b, c], [d, e, f]]: &[[f64; 3]; 2]) -> [f64; 3] {
    [b * f - c * e, c * d - a * f, a * e - b * d]
}

pub(super) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Directions of length 1; `None` if they are not perpendicular.
pub fn unit_directions(directions: [[f64; 3]; 2]) -> Option<[[f64; 3]; 2]> {
    const TOLERANCE: f64 = 1e-2; // written with few digits by some scanners
    let lengths = directions.map(|direction| dot(direction, direction).sqrt());
    let unit = [0, 1].map(|index| directions[index].map(|value| value / lengths[index]));
    let is_long = lengths.iter().all(|length| (length - 1.0).abs() < TOLERANCE);
    (is_long && dot(unit[0], unit[1]).abs() < TOLERANCE).then_some(unit)
}
