//! MR images that have come by another protocol, as a DICOM file: everything before the pixels, which are then written
//! as they come. Nobody's name is in it.
//!
//! Source: PS3.3 A.4 and A.36.2 (MR and Enhanced MR Image IOD), C.7.6.16 (functional groups), C.7.6.24 (floating point
//! pixels). Float32 pixels are not part of these IODs, so a file with them is for readers that know it.

use dicom_core::{PrimitiveValue, Tag};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use super::element::{count, decimal, item, number, one, raw, sequence, text, texts};
use super::mr::of_nobody;
use super::placement::Placement;
use super::source::one_line;

/// How pixels are stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    U16,
    I16,
    F32,
}

impl Stored {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 | Self::I16 => 2,
            Self::F32 => 4,
        }
    }
}

/// An image, or several of the same size and kind.
#[derive(Debug, Clone)]
pub struct MrObject {
    pub study_uid: String,
    pub series_uid: String,
    /// SOP Instance UID.
    pub instance_uid: String,
    pub frame_of_reference_uid: String,
    pub series_number: usize,
    pub instance_number: usize,
    /// Such as `HFS`; empty if it is not known.
    pub patient_position: String,
    /// Number of images of the series, if it is known.
    pub expected: Option<usize>,
    /// Where each image lies; all have the size, directions and kind of the first.
    pub placements: Vec<Placement>,
    pub stored: Stored,
}

impl MrObject {
    /// Bytes of all pixels.
    pub fn pixel_bytes(&self) -> usize {
        let of = |placement: &Placement| placement.rows * placement.columns * self.stored.bytes();
        self.placements.iter().map(of).sum()
    }

    /// The file up to its pixels, which follow row by row and image by image.
    ///
    /// # Errors
    /// No image; more pixels than a DICOM file can have; an attribute that cannot be written.
    pub fn before_pixels(&self) -> Result<Vec<u8>, String> {
        let Some(first) = self.placements.first() else { return Err("no image".into()) };
        let length = u32::try_from(self.pixel_bytes()).ok().filter(|&length| length < u32::MAX);
        let length = length.ok_or("more than 4 GB of pixels")?;
        let mut object = of_nobody();
        self.put_identity(&mut object);
        put_plane(&mut object, first);
        put_kind(&mut object, first);
        self.put_format(&mut object, first);
        if self.placements.len() > 1 {
            self.put_frames(&mut object, first);
        }
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let object = object.with_meta(meta).map_err(|error| one_line(&error))?;
        let mut bytes = Vec::new();
        object.write_all(&mut bytes).map_err(|error| one_line(&error))?;
        let (Tag(group, element), vr) = match self.stored {
            Stored::U16 | Stored::I16 => (tags::PIXEL_DATA, b"OW"),
            Stored::F32 => (tags::FLOAT_PIXEL_DATA, b"OF"),
        };
        bytes.extend([group.to_le_bytes(), element.to_le_bytes(), *vr, [0; 2]].concat());
        bytes.extend(length.to_le_bytes());
        Ok(bytes)
    }

    fn put_identity(&self, object: &mut InMemDicomObject) {
        let class =
            if self.placements.len() > 1 { uids::ENHANCED_MR_IMAGE_STORAGE } else { uids::MR_IMAGE_STORAGE };
        for (tag, value) in [
            (tags::SOP_CLASS_UID, class),
            (tags::SOP_INSTANCE_UID, &self.instance_uid),
            (tags::STUDY_INSTANCE_UID, &self.study_uid),
            (tags::SERIES_INSTANCE_UID, &self.series_uid),
            (tags::FRAME_OF_REFERENCE_UID, &self.frame_of_reference_uid),
            (tags::PATIENT_POSITION, &self.patient_position),
            (tags::SERIES_DESCRIPTION, "received by MRD"),
        ] {
            object.put(text(tag, value));
        }
        object.put(count(tags::SERIES_NUMBER, self.series_number));
        object.put(count(tags::INSTANCE_NUMBER, self.instance_number));
        if let Some(expected) = self.expected {
            object.put(count(tags::IMAGES_IN_ACQUISITION, expected));
        }
    }

    fn put_format(&self, object: &mut InMemDicomObject, first: &Placement) {
        object.put(number(tags::ROWS, first.rows as u16));
        object.put(number(tags::COLUMNS, first.columns as u16));
        match self.stored {
            Stored::U16 => drop(object.put(number(tags::PIXEL_REPRESENTATION, 0))),
            Stored::I16 => {}
            Stored::F32 => {
                object.put(number(tags::BITS_ALLOCATED, 32));
                for tag in [tags::BITS_STORED, tags::HIGH_BIT, tags::PIXEL_REPRESENTATION] {
                    object.remove_element(tag);
                }
            }
        }
    }

    /// Functional groups: those of all frames, and the place of each.
    fn put_frames(&self, object: &mut InMemDicomObject, first: &Placement) {
        object.put(count(tags::NUMBER_OF_FRAMES, self.placements.len()));
        let [across, down] = [tags::PIXEL_SPACING, tags::SLICE_THICKNESS];
        let shared = [
            one(tags::PLANE_ORIENTATION_SEQUENCE, [orientation(first)]),
            one(
                tags::PIXEL_MEASURES_SEQUENCE,
                [texts(across, first.pixel_spacing.map(decimal)), text(down, decimal(first.thickness))],
            ),
        ];
        object.put(one(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, shared));
        let frame = |placement: &Placement| item([one(tags::PLANE_POSITION_SEQUENCE, [position(placement)])]);
        object.put(sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, self.placements.iter().map(frame)));
    }
}

fn position(placement: &Placement) -> dicom_object::mem::InMemElement {
    texts(tags::IMAGE_POSITION_PATIENT, placement.position.map(decimal))
}

fn orientation(placement: &Placement) -> dicom_object::mem::InMemElement {
    texts(
        tags::IMAGE_ORIENTATION_PATIENT,
        placement.orientation.as_flattened().iter().map(|&part| decimal(part)),
    )
}

fn put_plane(object: &mut InMemDicomObject, placement: &Placement) {
    for element in [
        position(placement),
        orientation(placement),
        texts(tags::PIXEL_SPACING, placement.pixel_spacing.map(decimal)),
        text(tags::SLICE_THICKNESS, decimal(placement.thickness)),
    ] {
        object.put(element);
    }
}

fn put_kind(object: &mut InMemDicomObject, placement: &Placement) {
    let kind = &placement.kind;
    object.put(texts(tags::IMAGE_TYPE, kind.image_type.split('\\')));
    for (tag, value) in [
        (tags::ECHO_TIME, kind.echo_time),
        (tags::TEMPORAL_POSITION_IDENTIFIER, kind.temporal_position),
        (tags::TRIGGER_TIME, kind.trigger_time),
        (tags::ACQUISITION_NUMBER, kind.acquisition),
    ] {
        if let Some(value) = value {
            object.put(raw(tag, PrimitiveValue::from(decimal(value))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::{Images, Kind};
    use proptest::prelude::*;
    use std::io::Read;

    fn object(stored: Stored, images: usize) -> MrObject {
        let placement = |index: usize| Placement {
            rows: 3,
            columns: 2,
            position: [1.5, -2.25, 7.0 + 2.5 * index as f64],
            orientation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            pixel_spacing: [0.5, 0.75],
            thickness: 2.5,
            kind: Kind {
                image_type: "ORIGINAL\\PRIMARY\\M".into(),
                echo_time: Some(2.5),
                temporal_position: Some(3.0),
                acquisition: Some(1.0),
                trigger_time: Some(4.0),
                ..Kind::default()
            },
        };
        let uid = |end: &str| format!("1.2.3.{end}");
        MrObject {
            study_uid: uid("1"),
            series_uid: uid("2"),
            instance_uid: uid("3"),
            frame_of_reference_uid: uid("4"),
            series_number: 7,
            instance_number: 1,
            patient_position: "HFS".into(),
            expected: Some(12),
            placements: (0..images).map(placement).collect(),
            stored,
        }
    }

    fn read(object: &MrObject, pixels: &[u8]) -> Images {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        assert_eq!(object.pixel_bytes(), pixels.len());
        std::fs::write(&path, [&object.before_pixels().unwrap(), pixels].concat()).unwrap();
        let mut images = Images::open(&path).unwrap();
        for image in 0..images.count() {
            images.pixels(image).unwrap(); // the file is open from now on
        }
        images
    }

    proptest! {
        /// What is written is what is read, bit for bit also in float32.
        #[test]
        fn pixels_and_places_are_read_as_they_were_written(
            bits in proptest::collection::vec(any::<u32>(), 12),
            images in 1usize..3,
            kind in 0usize..3,
        ) {
            let stored = [Stored::U16, Stored::I16, Stored::F32][kind];
            let object = object(stored, images);
            let bits = &bits[..6 * images];
            let (bytes, expected): (Vec<Vec<u8>>, Vec<f32>) = bits.iter().map(|&bits| match stored {
                Stored::U16 => ((bits as u16).to_le_bytes().to_vec(), f32::from(bits as u16)),
                Stored::I16 => ((bits as i16).to_le_bytes().to_vec(), f32::from(bits as i16)),
                Stored::F32 => (bits.to_le_bytes().to_vec(), f32::from_bits(bits)),
            }).unzip();
            let mut found = read(&object, &bytes.concat());
            prop_assert_eq!(found.count(), images);
            prop_assert_eq!(found.expected, Some(12));
            for image in 0..images {
                prop_assert_eq!(found.placement(image).unwrap(), object.placements[image].clone());
                let pixels = found.pixels(image).unwrap();
                for (value, expected) in pixels.iter().zip(&expected[6 * image..]) {
                    let is_same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
                    prop_assert!(is_same, "{} {}", value, expected);
                }
            }
        }
    }

    /// Float32 pixels are read wherever DICOM is: as a volume, too.
    #[test]
    fn a_file_with_float_pixels_is_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let object = object(Stored::F32, 2);
        let values: Vec<f32> = (0..12).map(|value| value as f32 / 7.0).collect();
        let pixels: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let bytes = [object.before_pixels().unwrap(), pixels].concat();
        std::fs::write(folder.path().join("a.dcm"), bytes).unwrap();
        let study = crate::dicom::study(folder.path()).unwrap();
        let volume = study.volumes.into_iter().next().unwrap().volume.unwrap();
        assert_eq!((volume.shape(), volume.numbers()), ([2, 3, 2], crate::dicom::Numbers::Real));
        let mut read = Vec::new();
        crate::dicom::FrameReader::new(volume).read_to_end(&mut read).unwrap();
        let read: Vec<f32> =
            read.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        // The last row comes first.
        assert_eq!((read[6], read[4]), (values[10], values[0]));
        assert_eq!(read.len(), values.len());
    }
}
