//! A volume as an MR series: what a scanner would send of it. Nobody's name is in it.
//!
//! Source: PS3.3 A.4 (MR Image IOD), C.7.6.2 (image plane), C.8.3.1 (MR image), C.11.1 (rescale slope and intercept).

use std::sync::Arc;

use chrono::Local;
use dicom_core::PrimitiveValue;
use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject};
use ndarray::{Array3, ArrayView3, Axis};

use super::element::{count, decimal, empty, new_uid, number, raw, text, texts};
use super::slice::dot;
use super::source::one_line;

/// Most rows and columns (VR US).
const LONGEST_SIDE: usize = u16::MAX as usize;
/// Largest cosine of the angle between two axes that count as perpendicular.
const SHEAR: f64 = 1e-3;
/// Axes are equally coarse if their voxel sizes differ by at most this fraction.
const SAME_SIZE: f64 = 0.01;
/// Steps of the stored values.
const STEPS: f64 = u16::MAX as f64;

/// A volume whose slices are the images of a series.
#[derive(Debug, Clone)]
pub struct MrSeries {
    /// `[z, y, x]`.
    voxels: Arc<Array3<f32>>,
    /// Stored axis along which the slices are stacked: 0 = x, 1 = y, 2 = z.
    axis: usize,
    /// Position of the first voxel, and the way to the next slice, mm (LPS).
    origin: [f64; 3],
    step: [f64; 3],
    rescale: Rescale,
    /// What the images have in common.
    common: InMemDicomObject,
    /// SOP Instance UIDs of the images.
    uids: Vec<String>,
}

/// Stored value of 16 bits = (value - intercept) / slope, rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rescale {
    slope: f64,
    intercept: f64,
}

/// The stored axis (0 = x) with the largest voxels, of several the one that is nearest to the body's long axis.
pub fn coarsest_axis(shape: [usize; 3], world_from_voxel: &[[f64; 4]; 3]) -> usize {
    if let Some(axis) = (0..3).rev().find(|&axis| shape[axis] == 1) {
        return axis;
    }
    let size = |axis| length(column(world_from_voxel, axis));
    let largest = (0..3).map(size).fold(0.0, f64::max);
    let coarse = (0..3).filter(|&axis| size(axis) >= largest * (1.0 - SAME_SIZE));
    let along = |axis: usize| (world_from_voxel[2][axis] / size(axis)).abs();
    coarse.max_by(|&a, &b| along(a).total_cmp(&along(b))).unwrap_or(2)
}

impl MrSeries {
    /// A new series of a volume `[z, y, x]` whose slices are stacked along the stored axis `axis` (0 = x).
    /// `world_from_voxel` maps `[x, y, z]` to mm (RAS: +x right, +y front, +z top).
    ///
    /// Whole numbers are stored exactly if they span at most 65535, other values with that many steps.
    ///
    /// # Errors
    /// Says why images cannot hold the volume: axes that are not perpendicular, too many rows or columns.
    pub fn new(voxels: Array3<f32>, world_from_voxel: &[[f64; 4]; 3], axis: usize) -> Result<Self, String> {
        let (depth, height, width) = voxels.dim();
        let shape = [width, height, depth];
        let [across, down] = plane(axis);
        check(shape, world_from_voxel, axis)?;
        let rescale = Rescale::of(voxels.view());
        let columns = [across, down].map(|axis| column(world_from_voxel, axis));
        let step = column(world_from_voxel, axis);
        let thickness = if length(step) > 0.0 { length(step) } else { 1.0 };
        let mut common = of_nobody();
        for element in [
            text(tags::IMAGES_IN_ACQUISITION, shape[axis].to_string()),
            number(tags::ROWS, shape[down] as u16),
            number(tags::COLUMNS, shape[across] as u16),
            texts(tags::IMAGE_ORIENTATION_PATIENT, columns.iter().flat_map(|&way| direction(way))),
            texts(tags::PIXEL_SPACING, [columns[1], columns[0]].map(|way| decimal(length(way)))),
            text(tags::SLICE_THICKNESS, decimal(thickness)),
            text(tags::SPACING_BETWEEN_SLICES, decimal(thickness)),
            text(tags::RESCALE_SLOPE, decimal(rescale.slope)),
            text(tags::RESCALE_INTERCEPT, decimal(rescale.intercept)),
        ] {
            common.put(element);
        }
        let origin = column(world_from_voxel, 3);
        let voxels = Arc::new(voxels);
        Ok(Self { voxels, axis, origin, step, rescale, common, uids: Vec::new() }.again())
    }

    /// The same images as another series of another examination.
    pub fn again(&self) -> Self {
        let mut again = self.clone();
        for tag in [tags::STUDY_INSTANCE_UID, tags::SERIES_INSTANCE_UID, tags::FRAME_OF_REFERENCE_UID] {
            again.common.put(text(tag, new_uid()));
        }
        again.uids = (0..self.len()).map(|_| new_uid()).collect();
        again
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.voxels.len_of(Axis(2 - self.axis))
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SOP Class UID and transfer syntax of the images.
    pub fn kind(&self) -> [&'static str; 2] {
        [uids::MR_IMAGE_STORAGE, uids::EXPLICIT_VR_LITTLE_ENDIAN]
    }

    /// An image, in the order of the stored axis.
    ///
    /// # Errors
    /// An attribute that cannot be written.
    ///
    /// # Panics
    /// If there is no image `index`.
    pub fn image(&self, index: usize) -> Result<DefaultDicomObject, String> {
        let position = [0, 1, 2].map(|axis| self.origin[axis] + index as f64 * self.step[axis]);
        let slice = self.voxels.index_axis(Axis(2 - self.axis), index);
        let pixels: Vec<u16> = slice.iter().map(|&value| self.rescale.stored(value) as u16).collect();
        let mut object = self.common.clone();
        for element in [
            text(tags::SOP_INSTANCE_UID, &*self.uids[index]),
            count(tags::INSTANCE_NUMBER, index + 1),
            texts(tags::IMAGE_POSITION_PATIENT, position.map(decimal)),
            raw(tags::PIXEL_DATA, PrimitiveValue::U16(pixels.into())),
        ] {
            object.put(element);
        }
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        object.with_meta(meta).map_err(|error| one_line(&error))
    }
}

impl Rescale {
    fn of(voxels: ArrayView3<f32>) -> Self {
        let (low, high) = voxels.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| {
            (low.min(f64::from(value)), high.max(f64::from(value)))
        });
        let (least, most) = (f64::from(i16::MIN), f64::from(i16::MAX));
        let is_whole = voxels.iter().all(|value| value.fract() == 0.0);
        if is_whole && low >= least && high <= most {
            return Self { slope: 1.0, intercept: 0.0 };
        } else if (is_whole && high - low <= STEPS) || low >= high {
            return Self { slope: 1.0, intercept: as_written(low - least) };
        }
        // A little more than the range, so that rounding in what is written leaves the largest value within it.
        let slope = as_written((high - low) / STEPS * (1.0 + 1e-9));
        Self { slope, intercept: as_written(low - least * slope) }
    }

    fn stored(self, value: f32) -> i16 {
        ((f64::from(value) - self.intercept) / self.slope).round() as i16 // saturates
    }
}

/// The value that readers of the attribute get.
fn as_written(value: f64) -> f64 {
    decimal(value).parse().unwrap_or(value)
}

/// Stored axes of the columns and rows of images that are stacked along `axis`.
fn plane(axis: usize) -> [usize; 2] {
    match axis {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    }
}

/// A column of the affine in LPS.
fn column(world_from_voxel: &[[f64; 4]; 3], index: usize) -> [f64; 3] {
    let [x, y, z] = [0, 1, 2].map(|row| world_from_voxel[row][index]);
    [0.0 - x, 0.0 - y, z]
}

fn length(way: [f64; 3]) -> f64 {
    dot(way, way).sqrt()
}

fn direction(way: [f64; 3]) -> [String; 3] {
    way.map(|part| decimal(part / length(way) + 0.0))
}

fn check(shape: [usize; 3], world_from_voxel: &[[f64; 4]; 3], axis: usize) -> Result<(), String> {
    let [across, down] = plane(axis);
    if let Some(side) = [shape[across], shape[down]].into_iter().find(|&side| side > LONGEST_SIDE) {
        return Err(format!("{side} voxels in a row; a DICOM image has at most {LONGEST_SIDE}"));
    }
    let ways = [across, down, axis].map(|axis| column(world_from_voxel, axis));
    let has_size = |&way: &[f64; 3]| length(way) > 0.0;
    if !ways[..2].iter().all(has_size) {
        return Err("voxels without a size".into());
    }
    let pairs = if shape[axis] > 1 { &[(0, 1), (0, 2), (1, 2)][..] } else { &[(0, 1)] };
    for &(a, b) in pairs {
        let cosine = dot(ways[a], ways[b]) / (length(ways[a]) * length(ways[b]));
        let is_perpendicular = cosine.abs() <= SHEAR;
        if !is_perpendicular {
            let angle = cosine.abs().min(1.0).asin().to_degrees();
            return Err(format!("its axes are sheared by {angle:.2}°, which DICOM images cannot be"));
        }
    }
    Ok(())
}

/// Attributes that do not depend on the volume; those of a patient are empty.
pub(super) fn of_nobody() -> InMemDicomObject {
    let now = Local::now();
    let (date, time) = (now.format("%Y%m%d").to_string(), now.format("%H%M%S").to_string());
    let mut object = InMemDicomObject::from_element_iter(
        [
            tags::PATIENT_NAME,
            tags::PATIENT_ID,
            tags::PATIENT_BIRTH_DATE,
            tags::PATIENT_SEX,
            tags::REFERRING_PHYSICIAN_NAME,
            tags::STUDY_ID,
            tags::ACCESSION_NUMBER,
            tags::POSITION_REFERENCE_INDICATOR,
            tags::SCAN_OPTIONS,
            tags::MR_ACQUISITION_TYPE,
            tags::REPETITION_TIME,
            tags::ECHO_TIME,
            tags::ECHO_TRAIN_LENGTH,
            tags::LATERALITY,
        ]
        .map(empty),
    );
    for (tag, value) in [
        (tags::SOP_CLASS_UID, uids::MR_IMAGE_STORAGE),
        (tags::MODALITY, "MR"),
        (tags::MANUFACTURER, "self-prompt-sam"),
        (tags::STUDY_DATE, &date),
        (tags::STUDY_TIME, &time),
        (tags::SERIES_DATE, &date),
        (tags::SERIES_TIME, &time),
        (tags::SERIES_NUMBER, "1"),
        (tags::SERIES_DESCRIPTION, "sent by spsam"),
        (tags::ACQUISITION_NUMBER, "1"),
        (tags::PATIENT_POSITION, "HFS"),
        (tags::SCANNING_SEQUENCE, "RM"),
        (tags::SEQUENCE_VARIANT, "NONE"),
        (tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2"),
        (tags::RESCALE_TYPE, "US"),
    ] {
        object.put(text(tag, value));
    }
    object.put(texts(tags::IMAGE_TYPE, ["DERIVED", "SECONDARY", "OTHER"]));
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 1), // signed
    ] {
        object.put(number(tag, value));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rescale(values: [f32; 4]) -> (Rescale, [f64; 4]) {
        let rescale = Rescale::of(Array3::from_shape_vec((1, 2, 2), values.to_vec()).unwrap().view());
        (rescale, values.map(|value| f64::from(rescale.stored(value)) * rescale.slope + rescale.intercept))
    }

    #[test]
    fn whole_numbers_are_exact_and_others_nearly() {
        for values in [
            [0.0, 1.0, 255.0, -32768.0],
            [0.0, 1.0, 65535.0, 40000.0],
            [-40000.0, -7.0, 3.0, 20000.0],
            [3e6, 3e6, 3e6, 3e6],
            [0.25; 4],
        ] {
            assert_eq!(rescale(values).1, values.map(f64::from));
        }
        for values in [
            [0.0, 1e-3, 0.5, 1.0],
            [-1e30, 0.0, 1.0, 3e38],
            [1e-8, 2e-8, 3e-8, 7.77e-8],
            [0.0, 70000.0, 1.0, 2.0],
        ] {
            let (rescale, found) = rescale(values);
            for (value, found) in values.into_iter().zip(found) {
                assert!(
                    (f64::from(value) - found).abs() <= 0.5001 * rescale.slope,
                    "{values:?}: {value}, {found}"
                );
            }
        }
    }

    #[test]
    fn slices_lie_along_the_coarsest_axis() {
        let of = |sizes: [f64; 3], shape| {
            let [x, y, z] = sizes;
            // The stored axes point to the back, to the top and to the left.
            coarsest_axis(shape, &[[0.0, 0.0, -z, 5.0], [-x, 0.0, 0.0, 1.0], [0.0, y, 0.0, 2.0]])
        };
        assert_eq!(of([1.0, 1.0, 3.0], [9; 3]), 2);
        assert_eq!(of([2.0, 1.0, 1.0], [9; 3]), 0);
        assert_eq!(of([1.0, 1.0, 1.0], [9; 3]), 1); // top
        assert_eq!(of([1.0, 1.0, 1.0], [9, 9, 1]), 2);
    }

    #[test]
    fn what_no_images_can_hold_is_refused() {
        let unit = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let refused =
            |affine: &[[f64; 4]; 3], shape| MrSeries::new(Array3::zeros(shape), affine, 2).unwrap_err();
        let mut sheared = unit;
        sheared[0][1] = 0.1;
        assert!(refused(&sheared, (2, 2, 2)).contains("sheared by 5.71°"));
        assert!(refused(&unit, (1, 1, 70_000)).contains("70000 voxels"));
        let mut flat = unit;
        flat[1][1] = 0.0;
        assert!(refused(&flat, (2, 2, 2)).contains("without a size"));
    }
}
