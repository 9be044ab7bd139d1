//! What file names mean: extensions, modality numbers, labels, natural order.

use std::cmp::Ordering;
use std::path::Path;

use crate::volume::open::voxels_beside;

/// Endings of the names of label files, before `.nii.gz`.
const LABEL_ENDINGS: [&str; 4] = ["_gt", "_seg", "_label", "_labels"];
/// Words in names of images whose labels have `label` instead.
const IMAGE_WORDS: [&str; 2] = ["img", "image"];
/// Extensions of medical images that are not NIfTI.
const OTHER_FORMATS: [&str; 12] = [
    ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".dcm", ".ima", ".mnc", ".gipl", ".nii.bz2", ".nii.xz",
];

/// Whether a file is `*.nii` or `*.nii.gz`, or `*.hdr` (or `*.hdr.gz`) with its `*.img` beside it.
pub(super) fn is_volume(path: &Path) -> bool {
    let name = lower_name(path);
    name.ends_with(".nii") || name.ends_with(".nii.gz") || voxels_beside(path).is_some()
}

/// Whether a file has the extension of a medical image in another format.
pub(super) fn is_other_format(path: &Path) -> bool {
    let name = lower_name(path);
    OTHER_FORMATS.iter().any(|ending| name.ends_with(ending))
}

fn lower_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// File name without `.nii`, `.hdr` or `.img`, compressed or not, or else without `.dcm` or `.ima`.
pub(super) fn stem(path: &Path) -> String {
    let mut name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let whole = name.len();
    for ending in [".gz", ".nii", ".hdr", ".img"] {
        cut(&mut name, ending);
    }
    if name.len() == whole {
        [".dcm", ".ima"].into_iter().for_each(|ending| cut(&mut name, ending));
    }
    name
}

fn cut(name: &mut String, ending: &str) {
    let length = name.len().saturating_sub(ending.len());
    if name.is_char_boundary(length) && name[length..].eq_ignore_ascii_case(ending) && length > 0 {
        name.truncate(length);
    }
}

/// nnU-Net's modality number: `("prostate_03", 1)` for `prostate_03_0001`.
pub(super) fn split_modality(stem: &str) -> Option<(&str, usize)> {
    let (case, number) = stem.rsplit_once('_')?;
    let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && !case.is_empty() { Some((case, number.parse().ok()?)) } else { None }
}

/// `case` for `case_gt`, `case_seg`, `case_label` and `case_labels`.
pub(super) fn without_label_ending(stem: &str) -> Option<&str> {
    LABEL_ENDINGS.iter().find_map(|ending| stem.strip_suffix(ending)).filter(|base| !base.is_empty())
}

/// Possible names of the labels of an image: the same name, the name with an ending, or with `label` for `img`.
pub(super) fn label_names(image: &str) -> Vec<String> {
    let with_ending = LABEL_ENDINGS.iter().map(|ending| format!("{image}{ending}"));
    let with_word = IMAGE_WORDS.iter().filter(|&&word| image.contains(word));
    let with_word = with_word.map(|word| image.replacen(word, "label", 1));
    std::iter::once(image.to_owned()).chain(with_ending).chain(with_word).collect()
}

/// Possible names of the image of these labels, other than the same name.
pub(super) fn image_names(labels: &str) -> Vec<String> {
    let without_ending = without_label_ending(labels).map(str::to_owned);
    let with_word = IMAGE_WORDS.iter().filter(|_| labels.starts_with("label"));
    without_ending.into_iter().chain(with_word.map(|word| labels.replacen("label", word, 1))).collect()
}

/// Whether a file's name marks it as the labels of a volume beside it; `beside` has the names of all volumes of the
/// folder. Examples: `case_seg` beside `case`, `case_0000` or (BraTS) `case_t1`; `label0001` beside `img0001`.
pub(super) fn is_labels_of_one_of(stem: &str, beside: &[String]) -> bool {
    let is_beside = |name: &str| beside.iter().any(|other| other == name);
    if image_names(stem).iter().any(|name| is_beside(name)) {
        return true;
    }
    let Some(base) = without_label_ending(stem) else { return false };
    beside.iter().any(|other| {
        let rest = other.strip_prefix(base).and_then(|rest| rest.strip_prefix('_'));
        rest.is_some_and(|rest| !rest.is_empty()) && without_label_ending(other).is_none()
    })
}

/// Natural order, in which `case2` comes before `case10`.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (digits_left, digits_right) = (leading_digits(left), leading_digits(right));
        let order = if digits_left > 0 && digits_right > 0 {
            let number = |text: &str, digits: usize| text[..digits].trim_start_matches('0').to_owned();
            let (x, y) = (number(left, digits_left), number(right, digits_right));
            (left, right) = (&left[digits_left..], &right[digits_right..]);
            x.len().cmp(&y.len()).then_with(|| x.cmp(&y))
        } else {
            let (mut rest_left, mut rest_right) = (left.chars(), right.chars());
            let order = rest_left.next().cmp(&rest_right.next());
            (left, right) = (rest_left.as_str(), rest_right.as_str());
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

fn leading_digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["case10", "case2", "case02", "case", "img0001_a", "case2_b"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["case", "case02", "case2", "case2_b", "case10", "img0001_a"]);
    }

    #[test]
    fn endings_and_modalities_are_split_off() {
        assert_eq!(stem(Path::new("a/b_0001.nii.gz")), "b_0001");
        assert_eq!(stem(Path::new("b.NII")), "b");
        assert_eq!(stem(Path::new("b.hdr")), "b");
        assert_eq!(split_modality("prostate_03_0001"), Some(("prostate_03", 1)));
        assert_eq!(split_modality("hippocampus_003"), None);
        assert_eq!(split_modality("img0001"), None);
    }

    #[test]
    fn labels_are_known_by_the_volume_beside_them() {
        let beside = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (labels, others) in [
            ("a_gt", &["a_gt", "a"][..]),
            ("a_seg", &["a_0000", "a_seg"]),
            ("BraTS_1_seg", &["BraTS_1_flair", "BraTS_1_seg", "BraTS_1_t1"]),
            ("label0001", &["img0001", "label0001"]),
        ] {
            assert!(is_labels_of_one_of(labels, &beside(others)), "{labels}");
        }
        for (image, others) in [
            ("study_03_seg", &["study_03_seg", "ct_01", "label_free_ct_02"][..]),
            ("label_free_ct_02", &["study_03_seg", "ct_01", "label_free_ct_02"]),
            ("a_gt", &["a_gt", "a_seg"]),
            ("a", &["a", "a_gt"]),
        ] {
            assert!(!is_labels_of_one_of(image, &beside(others)), "{image}");
        }
    }
}
