//! What file names say: endings, modality numbers, natural order.

use std::cmp::Ordering;
use std::path::Path;

/// Whether a file is called `*.nii` or `*.nii.gz`.
pub(super) fn is_volume(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with(".nii") || name.ends_with(".nii.gz")
}

/// File name without `.nii` or `.nii.gz`.
pub(super) fn stem(path: &Path) -> String {
    let mut name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for ending in [".gz", ".nii"] {
        let length = name.len().saturating_sub(ending.len());
        if name.is_char_boundary(length) && name[length..].eq_ignore_ascii_case(ending) && length > 0 {
            name.truncate(length);
        }
    }
    name
}

/// nnU-Net's modality number: `("prostate_03", 1)` of `prostate_03_0001`.
pub(super) fn split_modality(stem: &str) -> Option<(&str, usize)> {
    let (case, number) = stem.rsplit_once('_')?;
    let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && !case.is_empty() { Some((case, number.parse().ok()?)) } else { None }
}

/// Order in which numbers inside names count as numbers: `case2` before `case10`.
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
        assert_eq!(split_modality("prostate_03_0001"), Some(("prostate_03", 1)));
        assert_eq!(split_modality("hippocampus_003"), None);
        assert_eq!(split_modality("img0001"), None);
    }
}
