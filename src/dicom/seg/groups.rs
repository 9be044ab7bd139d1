//! Functional groups and dimensions: which segment and which image a frame shows, and where it lies (PS3.3 C.7.6.16,
//! C.7.6.17, C.8.20.3), and the images that were segmented (C.12.2).

use dicom_core::{PrimitiveValue, Tag};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::frames::{Frame, Frames};
use super::source::{Image, Instance, Sources};
use crate::bundle::Code;
use crate::dicom::element::{
    coded, count, decimal, item, longs, new_uid, number, one, raw, sequence, text, texts,
};
use crate::dicom::source::text as text_of;

/// What the frames are ordered by: name, attribute, and its functional group.
const DIMENSIONS: [(&str, Tag, Tag); 2] = [
    ("Segment", tags::REFERENCED_SEGMENT_NUMBER, tags::SEGMENT_IDENTIFICATION_SEQUENCE),
    ("Position", tags::IMAGE_POSITION_PATIENT, tags::PLANE_POSITION_SEQUENCE),
];

pub(super) fn add(object: &mut InMemDicomObject, sources: &Sources, frames: &Frames) {
    add_dimensions(object);
    object.put(one(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, shared(sources)));
    let frame = |frame: &Frame| of_frame(frame, frames.places[&frame.image], &sources.images[frame.image]);
    object.put(sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, frames.list.iter().map(frame)));
    let instances = sources.instances().into_iter().map(|instance| item(reference(instance)));
    let series = [
        text(tags::SERIES_INSTANCE_UID, text_of(&sources.first, tags::SERIES_INSTANCE_UID)),
        sequence(tags::REFERENCED_INSTANCE_SEQUENCE, instances),
    ];
    object.put(one(tags::REFERENCED_SERIES_SEQUENCE, series));
}

fn add_dimensions(object: &mut InMemDicomObject) {
    let uid = new_uid();
    let indices = DIMENSIONS.map(|(label, attribute, group)| {
        item([
            text(tags::DIMENSION_ORGANIZATION_UID, &*uid),
            raw(tags::DIMENSION_INDEX_POINTER, PrimitiveValue::from(attribute)),
            raw(tags::FUNCTIONAL_GROUP_POINTER, PrimitiveValue::from(group)),
            text(tags::DIMENSION_DESCRIPTION_LABEL, label),
        ])
    });
    object.put(sequence(tags::DIMENSION_INDEX_SEQUENCE, indices));
    object.put(one(tags::DIMENSION_ORGANIZATION_SEQUENCE, [text(tags::DIMENSION_ORGANIZATION_UID, uid)]));
}

/// The groups that all frames have in common.
fn shared(sources: &Sources) -> [InMemElement; 2] {
    let distance = decimal(sources.distance);
    let measures = [
        text(tags::SLICE_THICKNESS, &*distance),
        text(tags::SPACING_BETWEEN_SLICES, distance),
        texts(tags::PIXEL_SPACING, &sources.pixel_spacing),
    ];
    let orientation = [texts(tags::IMAGE_ORIENTATION_PATIENT, &sources.orientation)];
    [one(tags::PIXEL_MEASURES_SEQUENCE, measures), one(tags::PLANE_ORIENTATION_SEQUENCE, orientation)]
}

fn of_frame(frame: &Frame, place: u32, image: &Image) -> InMemDicomObject {
    let segment = u16::from(frame.segment);
    let indices = [longs(tags::DIMENSION_INDEX_VALUES, [u32::from(segment), place])];
    let position = [texts(tags::IMAGE_POSITION_PATIENT, &image.position)];
    let identification = [number(tags::REFERENCED_SEGMENT_NUMBER, segment)];
    item([
        one(tags::DERIVATION_IMAGE_SEQUENCE, derivation(image)),
        one(tags::FRAME_CONTENT_SEQUENCE, indices),
        one(tags::PLANE_POSITION_SEQUENCE, position),
        one(tags::SEGMENT_IDENTIFICATION_SEQUENCE, identification),
    ])
}

/// What a frame was made from.
fn derivation(image: &Image) -> [InMemElement; 2] {
    let code = |value: &str, meaning: &str| Code {
        scheme: "DCM".into(),
        value: value.into(),
        meaning: meaning.into(),
    };
    let purpose = code("121322", "Source image for image processing operation");
    let mut source = item(reference(&image.instance));
    source.put(coded(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, &purpose));
    source.put(text(tags::SPATIAL_LOCATIONS_PRESERVED, "YES"));
    if let Some(frame) = image.frame {
        source.put(count(tags::REFERENCED_FRAME_NUMBER, frame));
    }
    [
        coded(tags::DERIVATION_CODE_SEQUENCE, &code("113076", "Segmentation")),
        sequence(tags::SOURCE_IMAGE_SEQUENCE, [source]),
    ]
}

fn reference(instance: &Instance) -> [InMemElement; 2] {
    [
        text(tags::REFERENCED_SOP_CLASS_UID, &*instance.class_uid),
        text(tags::REFERENCED_SOP_INSTANCE_UID, &*instance.uid),
    ]
}
