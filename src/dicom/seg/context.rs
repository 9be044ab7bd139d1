//! Whose images and of which examination (copied), and what made the segmentation when (PS3.3 C.7.1 to C.7.5, C.12.1).

use chrono::{DateTime, FixedOffset, Local, Utc};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::segmentation::Model;
use crate::bundle::plain_text;
use crate::dicom::element::{empty, new_uid, text};
use crate::dicom::source::text as text_of;
use crate::versions;

/// Manufacturer, and creator of the content.
pub(super) const MAKER: &str = "self-prompt-sam";
/// Most characters of a text (VR LO).
const LONGEST_TEXT: usize = 64;
/// What is added to the number of the series: viewers and archives take series with the same number for one.
const NUMBERS_APART: i64 = 9000;

/// Attributes that every object has, even if empty (type 2).
const ALWAYS: [Tag; 10] = [
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
    tags::POSITION_REFERENCE_INDICATOR,
];

/// Attributes that are copied if they are there: of patient, examination, clinical trial and frame of reference.
const COPIED: [Tag; 47] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::TIMEZONE_OFFSET_FROM_UTC,
    tags::ISSUER_OF_PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID_QUALIFIERS_SEQUENCE,
    tags::TYPE_OF_PATIENT_ID,
    tags::OTHER_PATIENT_I_DS_SEQUENCE,
    tags::OTHER_PATIENT_NAMES,
    tags::PATIENT_BIRTH_TIME,
    tags::PATIENT_COMMENTS,
    tags::PATIENT_SPECIES_DESCRIPTION,
    tags::PATIENT_SPECIES_CODE_SEQUENCE,
    tags::PATIENT_BREED_DESCRIPTION,
    tags::PATIENT_BREED_CODE_SEQUENCE,
    tags::BREED_REGISTRATION_SEQUENCE,
    tags::RESPONSIBLE_PERSON,
    tags::RESPONSIBLE_PERSON_ROLE,
    tags::RESPONSIBLE_ORGANIZATION,
    tags::QUALITY_CONTROL_SUBJECT,
    tags::PATIENT_IDENTITY_REMOVED,
    tags::DEIDENTIFICATION_METHOD,
    tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
    tags::LONGITUDINAL_TEMPORAL_INFORMATION_MODIFIED,
    tags::STUDY_INSTANCE_UID,
    tags::STUDY_DESCRIPTION,
    tags::PROCEDURE_CODE_SEQUENCE,
    tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE,
    tags::REFERENCED_STUDY_SEQUENCE,
    tags::CONSULTING_PHYSICIAN_NAME,
    tags::PHYSICIANS_OF_RECORD,
    tags::NAME_OF_PHYSICIANS_READING_STUDY,
    tags::PATIENT_AGE,
    tags::PATIENT_SIZE,
    tags::PATIENT_WEIGHT,
    tags::PATIENT_SEX_NEUTERED,
    tags::ADMITTING_DIAGNOSES_DESCRIPTION,
    tags::CLINICAL_TRIAL_SPONSOR_NAME,
    tags::CLINICAL_TRIAL_PROTOCOL_ID,
    tags::CLINICAL_TRIAL_PROTOCOL_NAME,
    tags::CLINICAL_TRIAL_SITE_ID,
    tags::CLINICAL_TRIAL_SITE_NAME,
    tags::CLINICAL_TRIAL_SUBJECT_ID,
    tags::CLINICAL_TRIAL_SUBJECT_READING_ID,
    tags::CLINICAL_TRIAL_PROTOCOL_ETHICS_COMMITTEE_NAME,
    tags::CLINICAL_TRIAL_TIME_POINT_ID,
    tags::CLINICAL_TRIAL_TIME_POINT_DESCRIPTION,
    tags::FRAME_OF_REFERENCE_UID,
    tags::BODY_PART_EXAMINED,
];

/// The attributes of the source that hold for its segmentation, too.
pub(super) fn of_source(source: &InMemDicomObject) -> InMemDicomObject {
    let present = ALWAYS.into_iter().chain(COPIED).filter_map(|tag| source.get(tag).cloned());
    let mut object = InMemDicomObject::from_element_iter(ALWAYS.map(empty));
    present.for_each(|element| {
        object.put(element);
    });
    if text_of(source, tags::FRAME_OF_REFERENCE_UID).is_empty() {
        object.put(text(tags::FRAME_OF_REFERENCE_UID, new_uid()));
    }
    object
}

/// The series of the segmentation, and what made it.
pub(super) fn add_series(object: &mut InMemDicomObject, source: &InMemDicomObject, model: &Model) {
    let now = now(source);
    let (date, time) = (now.format("%Y%m%d").to_string(), now.format("%H%M%S").to_string());
    let name = plain_text(&model.name, LONGEST_TEXT);
    for (tag, value) in [
        (tags::MODALITY, "SEG"),
        (tags::SERIES_INSTANCE_UID, &new_uid()),
        (tags::SERIES_NUMBER, &series_number(source)),
        (tags::SERIES_DESCRIPTION, &plain_text(&format!("Segmentation ({name})"), LONGEST_TEXT)),
        (tags::CONTENT_DESCRIPTION, &plain_text(&format!("Segmentation by {name}"), LONGEST_TEXT)),
        (tags::MANUFACTURER, MAKER),
        (tags::MANUFACTURER_MODEL_NAME, &name),
        (tags::DEVICE_SERIAL_NUMBER, &plain_text(&model.id, LONGEST_TEXT)),
        (tags::SOFTWARE_VERSIONS, versions::SELF_PROMPT_SAM),
        (tags::SERIES_DATE, &date),
        (tags::SERIES_TIME, &time),
        (tags::INSTANCE_CREATION_DATE, &date),
        (tags::INSTANCE_CREATION_TIME, &time),
        (tags::CONTENT_DATE, &date),
        (tags::CONTENT_TIME, &time),
    ] {
        object.put(text(tag, value));
    }
}

/// Local time, or that of the time zone in which the source gives its times.
fn now(source: &InMemDicomObject) -> DateTime<FixedOffset> {
    match text_of(source, tags::TIMEZONE_OFFSET_FROM_UTC).parse::<FixedOffset>() {
        Ok(zone) => Utc::now().with_timezone(&zone),
        Err(_) => Local::now().fixed_offset(),
    }
}

fn series_number(source: &InMemDicomObject) -> String {
    let number: i64 = text_of(source, tags::SERIES_NUMBER).parse().unwrap_or(0);
    let apart = number.saturating_add(NUMBERS_APART);
    if i32::try_from(apart).is_ok() { apart } else { NUMBERS_APART }.to_string()
}

/// A segmentation of images that were compressed with loss says so (PS3.3 C.8.20.2).
pub(super) fn add_compression(object: &mut InMemDicomObject, source: &InMemDicomObject) {
    if text_of(source, tags::LOSSY_IMAGE_COMPRESSION) != "01" {
        object.put(text(tags::LOSSY_IMAGE_COMPRESSION, "00"));
        return;
    }
    object.put(text(tags::LOSSY_IMAGE_COMPRESSION, "01"));
    for tag in [tags::LOSSY_IMAGE_COMPRESSION_RATIO, tags::LOSSY_IMAGE_COMPRESSION_METHOD] {
        if let Some(element) = source.get(tag) {
            object.put(element.clone());
        }
    }
}
