//! Attributes of an image: of the file itself or, in enhanced multi-frame files, of its functional groups (PS3.3
//! C.7.6.16): the frame's own, else the shared ones.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

/// The attributes of one frame.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    file: &'a InMemDicomObject,
    frame: Option<&'a InMemDicomObject>,
    shared: Option<&'a InMemDicomObject>,
}

/// The first item of a sequence.
fn first_item(object: &InMemDicomObject, sequence: Tag) -> Option<&InMemDicomObject> {
    object.get(sequence)?.items()?.first()
}

impl<'a> Groups<'a> {
    /// The attributes of frame `index`.
    pub fn of_frame(file: &'a InMemDicomObject, index: usize) -> Self {
        let frames = file.get(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).and_then(|element| element.items());
        let frame = frames.and_then(|frames| frames.get(index));
        Self { file, frame, shared: first_item(file, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE) }
    }

    /// Number of frames with attributes of their own; `None` without functional groups.
    pub fn count(file: &InMemDicomObject) -> Option<usize> {
        Some(file.get(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)?.items()?.len())
    }

    /// The attribute `tag` of the functional group `group`, else the file's attribute `plain`.
    fn element(&self, group: Tag, tag: Tag, plain: Tag) -> Option<&'a InMemElement> {
        let of_group = |groups: Option<&'a InMemDicomObject>| first_item(groups?, group)?.get(tag);
        of_group(self.frame).or_else(|| of_group(self.shared)).or_else(|| self.file.get(plain))
    }

    /// Texts as they are in the file.
    pub fn texts(&self, group: Tag, tag: Tag) -> Vec<String> {
        let texts = self.element(group, tag, tag).and_then(|element| element.to_multi_str().ok());
        texts.map(|texts| texts.into_owned()).unwrap_or_default()
    }

    /// `N` numbers.
    pub fn numbers<const N: usize>(&self, group: Tag, tag: Tag) -> Option<[f64; N]> {
        let numbers = self.element(group, tag, tag)?.to_multi_float64().ok()?;
        let numbers: [f64; N] = numbers.try_into().ok()?;
        numbers.iter().all(|number| number.is_finite()).then_some(numbers)
    }

    /// A number; `plain` is its tag in files without functional groups.
    pub fn number(&self, group: Tag, tag: Tag, plain: Tag) -> Option<f64> {
        self.element(group, tag, plain)?.to_float64().ok().filter(|number| number.is_finite())
    }

    /// A text of codes, or a number as text.
    pub fn text(&self, group: Tag, tag: Tag, plain: Tag) -> String {
        let text = self.element(group, tag, plain).and_then(|element| element.to_str().ok());
        text.map(|text| text.trim_matches(['\0', ' ']).to_owned()).unwrap_or_default()
    }
}
