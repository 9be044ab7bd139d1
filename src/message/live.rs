//! Messages of live segmentation (`dataflows/stream.yml`): images of a series while they arrive, their masks, and the
//! state of series as JSON. No message names a patient.

use dora_node_api::{MetadataParameters, Parameter};
use serde::{Deserialize, Serialize};

use super::MessageError;
use super::header::{in_range, integer, keys, string};
use crate::dicom::{Kind, Placement, unit_directions};

/// Longest side of an image, pixels.
const LONGEST_SIDE: i64 = 1 << 15;

/// Metadata of an image on the edge `frames`: which image of which series it is, and where it lies. Its array holds the
/// pixels as Float32 `[rows, columns]`, with slope and intercept applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The series, without a patient's name: hexadecimal digits.
    pub series_id: String,
    /// How often the series was opened again after its end, from 0.
    pub revision: i64,
    /// Place of the image in the order of arrival, from 0, in its series.
    pub index: i64,
    /// When its last byte arrived, nanoseconds since 1970.
    pub received_ns: i64,
    /// Size, place in space and kind.
    pub placement: Placement,
}

/// Metadata of a mask on the edge `masks`. Its array holds the class of each pixel as UInt8 `[rows, columns]`, on the
/// pixels of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// The series of the image.
    pub series_id: String,
    /// Revision of the series.
    pub revision: i64,
    /// The image's place in the order of arrival.
    pub index: i64,
    /// Whether a mask of the complete series follows.
    pub provisional: bool,
    /// Number of classes, background included.
    pub classes: i64,
    /// Rows and columns.
    pub shape: [i64; 2],
    /// When the last byte of the image arrived, nanoseconds since 1970.
    pub received_ns: i64,
    /// When the mask was sent, nanoseconds since 1970.
    pub sent_ns: i64,
}

/// Source to loader, on the edge `series`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesMessage {
    /// A series begins, or begins again after its end with a higher revision.
    Open {
        series_id: String,
        revision: i64,
        /// Name of the case, fit for a file name.
        name: String,
        /// Number of images, if the source knows it.
        expected: Option<i64>,
    },
    /// A series is complete: it has images `0..images`.
    Closed { series_id: String, revision: i64, images: i64 },
    /// A series that cannot be completed: one line saying why.
    Failed { series_id: String, revision: i64, error: String },
}

/// Loader to source, on the edge `frame_ack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameAck {
    /// The loader has started and holds no images: unfinished series are sent again.
    Hello,
    /// The loader is there; sent from time to time.
    Waiting,
    /// These images have arrived and are in the loader's memory.
    Images { series_id: String, revision: i64, indices: Vec<i64> },
    /// Everything about the series is written, or it failed: it need not be kept.
    Done {
        series_id: String,
        revision: i64,
        /// Why it failed, in one line.
        error: Option<String>,
    },
}

/// A [`FrameAck`] with the id of the loader process that sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameAckMessage {
    /// Changes when the loader restarts.
    pub loader_id: String,
    /// What is acknowledged.
    pub ack: FrameAck,
}

impl Frame {
    /// Reads and checks metadata.
    ///
    /// # Errors
    /// [`MessageError::Key`] and [`MessageError::Value`], naming the key.
    pub fn parse(parameters: &MetadataParameters) -> Result<Self, MessageError> {
        let [rows, columns] = shape(parameters)?;
        let [a, b, c, d, e, f] = floats(parameters, "orientation")?;
        let orientation = unit_directions([[a, b, c], [d, e, f]]).ok_or(MessageError::Key {
            key: "orientation",
            expected: "two perpendicular directions of length 1",
        })?;
        let kind = Kind {
            image_type: string(parameters, "image_type")?,
            echo_time: optional(parameters, "echo_time")?,
            temporal_position: optional(parameters, "temporal_position")?,
            b_value: optional(parameters, "b_value")?,
            acquisition: optional(parameters, "acquisition")?,
            trigger_time: optional(parameters, "trigger_time")?,
        };
        let pixel_spacing: [f64; 2] = floats(parameters, "pixel_spacing")?;
        let [thickness] = floats(parameters, "thickness")?;
        if let Some(size) = pixel_spacing.into_iter().chain([thickness]).find(|&size| size <= 0.0) {
            return Err(MessageError::Value {
                key: "pixel_spacing",
                value: size.to_string(),
                expected: "above 0".into(),
            });
        }
        Ok(Self {
            series_id: string(parameters, SERIES_ID)?,
            revision: not_negative(parameters, REVISION)?,
            index: not_negative(parameters, INDEX)?,
            received_ns: integer(parameters, RECEIVED_NS)?,
            placement: Placement {
                rows: rows as usize,
                columns: columns as usize,
                position: floats(parameters, "position")?,
                orientation,
                pixel_spacing,
                thickness,
                kind,
            },
        })
    }

    /// The metadata of this image.
    pub fn to_parameters(&self) -> MetadataParameters {
        let Placement { rows, columns, position, orientation, pixel_spacing, thickness, kind } =
            &self.placement;
        let mut parameters = MetadataParameters::from([
            (keys::SHAPE.into(), Parameter::ListInt(vec![*rows as i64, *columns as i64])),
            (SERIES_ID.into(), Parameter::String(self.series_id.clone())),
            (REVISION.into(), Parameter::Integer(self.revision)),
            (INDEX.into(), Parameter::Integer(self.index)),
            (RECEIVED_NS.into(), Parameter::Integer(self.received_ns)),
            ("position".into(), Parameter::ListFloat(position.to_vec())),
            ("orientation".into(), Parameter::ListFloat(orientation.concat())),
            ("pixel_spacing".into(), Parameter::ListFloat(pixel_spacing.to_vec())),
            ("thickness".into(), Parameter::ListFloat(vec![*thickness])),
            ("image_type".into(), Parameter::String(kind.image_type.clone())),
        ]);
        let times = [
            ("echo_time", kind.echo_time),
            ("temporal_position", kind.temporal_position),
            ("b_value", kind.b_value),
            ("acquisition", kind.acquisition),
            ("trigger_time", kind.trigger_time),
        ];
        for (key, value) in times {
            parameters.extend(value.map(|value| (key.into(), Parameter::Float(value))));
        }
        parameters
    }
}

impl Mask {
    /// Reads and checks metadata.
    ///
    /// # Errors
    /// [`MessageError::Key`] and [`MessageError::Value`], naming the key.
    pub fn parse(parameters: &MetadataParameters) -> Result<Self, MessageError> {
        let provisional = match parameters.get(PROVISIONAL) {
            Some(Parameter::Bool(provisional)) => *provisional,
            _ => return Err(MessageError::Key { key: PROVISIONAL, expected: "a boolean" }),
        };
        Ok(Self {
            series_id: string(parameters, SERIES_ID)?,
            revision: not_negative(parameters, REVISION)?,
            index: not_negative(parameters, INDEX)?,
            provisional,
            classes: integer(parameters, keys::CLASSES)?,
            shape: shape(parameters)?,
            received_ns: integer(parameters, RECEIVED_NS)?,
            sent_ns: integer(parameters, SENT_NS)?,
        })
    }

    /// The metadata of this mask.
    pub fn to_parameters(&self) -> MetadataParameters {
        MetadataParameters::from([
            (keys::SHAPE.into(), Parameter::ListInt(self.shape.to_vec())),
            (SERIES_ID.into(), Parameter::String(self.series_id.clone())),
            (REVISION.into(), Parameter::Integer(self.revision)),
            (INDEX.into(), Parameter::Integer(self.index)),
            (PROVISIONAL.into(), Parameter::Bool(self.provisional)),
            (keys::CLASSES.into(), Parameter::Integer(self.classes)),
            (RECEIVED_NS.into(), Parameter::Integer(self.received_ns)),
            (SENT_NS.into(), Parameter::Integer(self.sent_ns)),
            ("primitive".into(), Parameter::String("masks".into())),
        ])
    }
}

const SERIES_ID: &str = "series_id";
const REVISION: &str = "revision";
const INDEX: &str = "index";
const RECEIVED_NS: &str = "received_ns";
const SENT_NS: &str = "sent_ns";
const PROVISIONAL: &str = "provisional";

fn shape(parameters: &MetadataParameters) -> Result<[i64; 2], MessageError> {
    let shape = match parameters.get(keys::SHAPE) {
        Some(Parameter::ListInt(shape)) => <[i64; 2]>::try_from(shape.as_slice()).ok(),
        _ => None,
    };
    let shape = shape.ok_or(MessageError::Key { key: keys::SHAPE, expected: "two integers" })?;
    shape.iter().try_for_each(|&side| in_range(keys::SHAPE, side, 1, LONGEST_SIDE))?;
    Ok(shape)
}

fn not_negative(parameters: &MetadataParameters, key: &'static str) -> Result<i64, MessageError> {
    let value = integer(parameters, key)?;
    in_range(key, value, 0, i64::MAX)?;
    Ok(value)
}

fn floats<const N: usize>(
    parameters: &MetadataParameters,
    key: &'static str,
) -> Result<[f64; N], MessageError> {
    let list = match parameters.get(key) {
        Some(Parameter::ListFloat(list)) => <[f64; N]>::try_from(list.as_slice()).ok(),
        _ => None,
    };
    list.filter(|list| list.iter().all(|value| value.is_finite()))
        .ok_or(MessageError::Key { key, expected: "a list of finite numbers of the right length" })
}

fn optional(parameters: &MetadataParameters, key: &'static str) -> Result<Option<f64>, MessageError> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Parameter::Float(value)) => Ok(Some(*value)),
        Some(_) => Err(MessageError::Key { key, expected: "a number" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            series_id: "0123456789abcdef".into(),
            revision: 1,
            index: 7,
            received_ns: 1_700_000_000_000_000_000,
            placement: Placement {
                rows: 3,
                columns: 5,
                position: [1.5, -2.0, 30.25],
                orientation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
                pixel_spacing: [0.5, 0.75],
                thickness: 3.0,
                kind: Kind {
                    image_type: "ORIGINAL\\PRIMARY".into(),
                    echo_time: Some(30.0),
                    ..Kind::default()
                },
            },
        }
    }

    #[test]
    fn metadata_of_images_and_masks_survive_the_way() {
        assert_eq!(Frame::parse(&frame().to_parameters()).unwrap(), frame());
        let mask = Mask {
            series_id: "ab".into(),
            revision: 0,
            index: 3,
            provisional: true,
            classes: 3,
            shape: [3, 5],
            received_ns: 5,
            sent_ns: 9,
        };
        assert_eq!(Mask::parse(&mask.to_parameters()).unwrap(), mask);
    }

    #[test]
    fn metadata_that_are_wrong_are_refused_by_key() {
        let with = |key: &str, value: Parameter| {
            let mut parameters = frame().to_parameters();
            parameters.insert(key.into(), value);
            Frame::parse(&parameters).unwrap_err().to_string()
        };
        assert!(with("shape", Parameter::ListInt(vec![3, 0])).contains("`shape`"));
        assert!(with("shape", Parameter::ListInt(vec![3, 4, 5])).contains("`shape`"));
        assert!(with("index", Parameter::Integer(-1)).contains("`index`"));
        assert!(with("position", Parameter::ListFloat(vec![0.0, f64::NAN, 0.0])).contains("`position`"));
        let skewed = vec![1.0, 0.0, 0.0, 0.5, 0.8, 0.0];
        assert!(with("orientation", Parameter::ListFloat(skewed)).contains("`orientation`"));
        assert!(with("pixel_spacing", Parameter::ListFloat(vec![1.0, 0.0])).contains("`pixel_spacing`"));
        assert!(with("echo_time", Parameter::String("long".into())).contains("`echo_time`"));
    }
}
