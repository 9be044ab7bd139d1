//! Prevents a run from overwriting its own input, or files that no run has written.

use std::path::PathBuf;

use eyre::{Result, bail};

use crate::dicom::is_series;
use crate::report::{OutputRecord, label_map_name, result_files, segmentation_name};
use crate::runtime::Settings;
use crate::volume::{CaseFiles, LabelFiles};

/// Fails if a result would overwrite an input file or, unless the settings allow it, a file that no earlier run
/// has written.
///
/// # Errors
/// Names the file.
pub(in crate::runtime) fn refuse_to_overwrite(cases: &[CaseFiles], settings: &Settings) -> Result<()> {
    let files = result_files(settings.part);
    refuse_results(cases, &files.each_ref().map(String::as_str), settings)
}

/// As [`refuse_to_overwrite`], for the results of the cases and these other files.
///
/// # Errors
/// Names the file.
pub(in crate::runtime) fn refuse_results(
    cases: &[CaseFiles],
    others: &[&str],
    settings: &Settings,
) -> Result<()> {
    let output = &settings.output;
    let results: Vec<String> = cases.iter().flat_map(|case| results(case, settings)).collect();
    let existing: Vec<PathBuf> =
        results.iter().filter_map(|name| output.join(name).canonicalize().ok()).collect();
    for case in cases.iter().filter(|_| !existing.is_empty()) {
        for file in
            case.images.iter().map(|path| &**path).chain(case.labels.iter().flat_map(LabelFiles::files))
        {
            if file.canonicalize().is_ok_and(|file| existing.contains(&file)) {
                bail!("{}: a result would overwrite this file; choose another SPSAM_OUTPUT", file.display());
            }
        }
    }
    if !settings.overwrite {
        let names = results.iter().map(String::as_str).chain(others.iter().copied());
        OutputRecord::read(output)?.check(names)?;
    }
    Ok(())
}

/// File names of the results of a case.
fn results(case: &CaseFiles, settings: &Settings) -> Vec<String> {
    let mut names = vec![label_map_name(&case.case_id)];
    if settings.segmentations && case.images.first().is_some_and(|image| is_series(image)) {
        names.push(segmentation_name(&case.case_id, 0));
    }
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_foreign_segmentation_is_not_overwritten_unless_none_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let check = |image: &str, seg: &str| {
            let variables = |name: &str| match name {
                "SPSAM_OUTPUT" => Some(folder.path().into()),
                "SPSAM_SEG" => Some(seg.into()),
                _ => None,
            };
            let case = CaseFiles { case_id: "head".into(), images: vec![path(image)], labels: None };
            let settings = Settings::read(&variables).unwrap();
            refuse_to_overwrite(&[case], &settings).map_err(|error| error.to_string())
        };
        fs::create_dir(path("study")).unwrap();
        fs::write(path("image.nii.gz"), "an image").unwrap();
        fs::write(path("head.seg.dcm"), "corrected by hand").unwrap();
        for series in ["study", "study/study_s3"] {
            assert!(check(series, "1").unwrap_err().contains("head.seg.dcm"));
            assert_eq!(check(series, "0"), Ok(()));
        }
        assert_eq!(check("image.nii.gz", "1"), Ok(()));
    }
}
