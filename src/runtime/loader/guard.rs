//! Prevents a run from overwriting its own input, or files that no run has written.

use std::path::{Path, PathBuf};

use eyre::{Result, bail};

use crate::report::{OutputRecord, RESULT_FILES, label_map_name};
use crate::volume::{CaseFiles, LabelFiles};

/// Fails if a result would overwrite an input file or, unless `overwrite`, a file that no earlier run has written.
///
/// # Errors
/// Names the file.
pub(in crate::runtime) fn refuse_to_overwrite(
    cases: &[CaseFiles],
    output: &Path,
    overwrite: bool,
) -> Result<()> {
    let results: Vec<String> = cases.iter().map(|case| label_map_name(&case.case_id)).collect();
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
    if !overwrite {
        let names = results.iter().map(String::as_str).chain(RESULT_FILES);
        OutputRecord::read(output)?.check(names)?;
    }
    Ok(())
}
