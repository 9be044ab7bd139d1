//! Files and folders that are not used as images, with the reason, so that nothing is left out silently.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

/// Most names in one line of the log.
const MOST_NAMES: usize = 20;

/// A file or folder that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// File or folder.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

/// Why a file or folder is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its name marks it as the labels of a volume beside it.
    LabelsOfAVolume,
    /// A volume whose labels are beside it, or a folder of such volumes, found where labels are expected.
    HasLabelsBeside,
    /// ACDC's cine series, whose frames are beside it.
    Film,
    /// Its name marks it as a folder of labels, and there are images elsewhere.
    LabelFolder,
    /// A folder beside volumes, which are used instead.
    BesideVolumes,
    /// Another folder of the dataset, such as `imagesTs` beside `imagesTr`.
    OtherPart,
    /// A medical image in an unsupported format.
    OtherFormat,
    /// A DICOM file that is no image.
    NoImage,
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LabelsOfAVolume => "named as labels of a volume beside it",
            Self::HasLabelsBeside => "images, whose labels are beside them",
            Self::Film => "a cine series whose frames are beside it",
            Self::LabelFolder => "a folder of labels",
            Self::BesideVolumes => "a folder beside volumes, which are used instead",
            Self::OtherPart => "another part of the dataset; give the folder itself to use it",
            Self::OtherFormat => "not a NIfTI file",
            Self::NoImage => "a DICOM file without an image",
        })
    }
}

/// One line per reason, with the names.
pub(super) fn log(left_out: &[LeftOut]) {
    for line in lines(left_out) {
        tracing::warn!("{line}");
    }
}

fn lines(left_out: &[LeftOut]) -> Vec<String> {
    let mut by_reason: BTreeMap<Reason, Vec<&Path>> = BTreeMap::new();
    for LeftOut { path, reason } in left_out {
        by_reason.entry(*reason).or_default().push(path);
    }
    let line = |(reason, paths): (Reason, Vec<&Path>)| {
        let names: Vec<String> =
            paths.iter().take(MOST_NAMES).map(|path| path.display().to_string()).collect();
        let more = match paths.len().saturating_sub(MOST_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("not used ({reason}): {}{more}", names.join(", "))
    };
    by_reason.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_one_line_with_names() {
        let mut left_out: Vec<LeftOut> = (0..25)
            .map(|n| LeftOut { path: format!("x{n}_gt.nii").into(), reason: Reason::LabelsOfAVolume })
            .collect();
        left_out.push(LeftOut { path: "a.mha".into(), reason: Reason::OtherFormat });
        let lines = lines(&left_out);
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("x0_gt.nii, x1_gt.nii") && lines[0].ends_with("and 5 more"),
            "{}",
            lines[0]
        );
        assert_eq!(lines[1], "not used (not a NIfTI file): a.mha");
    }
}
