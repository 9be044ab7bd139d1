//! Elements with the VR of the dictionary.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::value::{C, DataSetSequence};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use uuid::Uuid;

use crate::bundle::Code;

/// Most characters of a decimal number (VR DS).
const LONGEST_DECIMAL: usize = 16;

pub(super) fn raw(tag: Tag, value: PrimitiveValue) -> InMemElement {
    let vr = StandardDataDictionary.by_tag(tag).map_or(VR::UN, |entry| entry.vr().relaxed());
    DataElement::new(tag, vr, value)
}

pub(super) fn empty(tag: Tag) -> InMemElement {
    raw(tag, PrimitiveValue::Empty)
}

pub(super) fn text(tag: Tag, value: impl Into<String>) -> InMemElement {
    raw(tag, PrimitiveValue::Str(value.into()))
}

pub(super) fn texts<T: Into<String>>(tag: Tag, values: impl IntoIterator<Item = T>) -> InMemElement {
    raw(tag, PrimitiveValue::Strs(values.into_iter().map(Into::into).collect()))
}

pub(super) fn number(tag: Tag, value: u16) -> InMemElement {
    raw(tag, PrimitiveValue::from(value))
}

pub(super) fn numbers(tag: Tag, values: impl IntoIterator<Item = u16>) -> InMemElement {
    raw(tag, PrimitiveValue::U16(values.into_iter().collect()))
}

pub(super) fn longs(tag: Tag, values: impl IntoIterator<Item = u32>) -> InMemElement {
    raw(tag, PrimitiveValue::U32(values.into_iter().collect()))
}

/// A whole number as text (VR IS).
pub(super) fn count(tag: Tag, value: usize) -> InMemElement {
    text(tag, value.to_string())
}

pub(super) fn sequence(tag: Tag, items: impl IntoIterator<Item = InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items.into_iter().collect::<C<_>>()))
}

/// A sequence with one item.
pub(super) fn one(tag: Tag, elements: impl IntoIterator<Item = InMemElement>) -> InMemElement {
    sequence(tag, [item(elements)])
}

pub(super) fn item(elements: impl IntoIterator<Item = InMemElement>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(elements)
}

pub(super) fn coded(tag: Tag, code: &Code) -> InMemElement {
    one(tag, code_elements(code))
}

/// The elements of an item of a code sequence (PS3.3 8.8).
pub(super) fn code_elements(code: &Code) -> [InMemElement; 3] {
    [
        text(tags::CODE_VALUE, &*code.value),
        text(tags::CODING_SCHEME_DESIGNATOR, &*code.scheme),
        text(tags::CODE_MEANING, &*code.meaning),
    ]
}

/// A number as text (VR DS), as exact as there is room for.
pub(super) fn decimal(value: f64) -> String {
    let plain = value.to_string();
    if plain.len() <= LONGEST_DECIMAL {
        return plain;
    }
    let as_text = |digits: usize| [format!("{value:.digits$}"), format!("{value:.digits$e}")];
    let fitting = (0..LONGEST_DECIMAL).flat_map(as_text).filter(|text| text.len() <= LONGEST_DECIMAL);
    let error = |text: &String| text.parse().map_or(f64::INFINITY, |read: f64| (read - value).abs());
    fitting.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(plain)
}

/// A number of another file; numbers with more digits than allowed are shortened.
pub(super) fn same_decimal(given: &str) -> String {
    let given = given.trim_matches(['\0', ' ']);
    match given.parse() {
        Ok(value) if given.len() > LONGEST_DECIMAL => decimal(value),
        _ => given.to_owned(),
    }
}

/// A new UID (PS3.5 B.2).
pub(crate) fn new_uid() -> String {
    format!("2.25.{}", Uuid::new_v4().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_at_most_16_characters_and_lose_little() {
        for value in
            [0.0, -1.5, 1.0 / 3.0, -1.0 / 3.0, -123.456_789_012_345_67, 1e-20, -2.0 / 3e9, 1e15 / 7.0]
        {
            let text = decimal(value);
            assert!(text.len() <= LONGEST_DECIMAL, "{text}");
            let error = (text.parse::<f64>().unwrap() - value).abs();
            assert!(error <= 1e-9 * value.abs().max(1e-9), "{value} as {text}");
        }
        assert_eq!(same_decimal("1.250 "), "1.250");
        assert_eq!(same_decimal("-0.33333333333333331"), decimal(-1.0 / 3.0));
    }
}
