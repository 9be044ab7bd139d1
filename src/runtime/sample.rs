//! The default input of a dataflow: a volume that set-up installs, with a shipped model.

use std::fs;
use std::path::{Path, PathBuf};

use eyre::{Result, WrapErr, bail};
use serde::Deserialize;

/// A file `sample.yml` in the folder of a model bundle.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleFile {
    /// Volume, relative to the folder of this file.
    input: PathBuf,
    /// Regions to segment, as `SPSAM_ROI`.
    regions: String,
}

/// The contents of a sample file, with resolved paths.
#[derive(Debug)]
pub(super) struct Sample {
    pub input: PathBuf,
    /// The bundle in the folder of the file.
    pub model: PathBuf,
    pub regions: String,
}

impl Sample {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that cannot be read; a volume that does not exist.
    pub fn open(file: &Path) -> Result<Self> {
        let shown = file.display();
        let text = fs::read_to_string(file).wrap_err_with(|| format!("SPSAM_SAMPLE: {shown}"))?;
        let SampleFile { input, regions } =
            serde_yaml::from_str(&text).wrap_err_with(|| format!("SPSAM_SAMPLE: {shown}"))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let input = folder.join(input);
        if !input.is_file() {
            bail!(
                "{}: the sample is not there: run `cargo xtask setup`, or set SPSAM_INPUT",
                input.display()
            );
        }
        Ok(Self { input, model: folder, regions })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::super::Settings;
    use super::*;

    fn read(variables: &[(&str, &Path)]) -> Result<Settings> {
        let variables: BTreeMap<&str, OsString> =
            variables.iter().map(|(name, value)| (*name, value.as_os_str().to_owned())).collect();
        Settings::read(&|name| variables.get(name).cloned())
    }

    #[test]
    fn without_an_input_the_sample_is_segmented_and_what_is_set_wins() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sample.yml");
        fs::write(&file, "input: head.nii\nregions: \"left=1,2,3,4,5,6\"\n").unwrap();
        let missing = read(&[("SPSAM_SAMPLE", &file)]).unwrap_err().to_string();
        assert!(missing.contains("head.nii") && missing.contains("cargo xtask setup"), "{missing}");
        fs::write(folder.path().join("head.nii"), "").unwrap();

        let settings = read(&[("SPSAM_SAMPLE", &file)]).unwrap();
        assert_eq!(settings.input.unwrap(), folder.path().join("head.nii"));
        assert_eq!(settings.model.unwrap(), folder.path());
        assert_eq!(settings.regions[0].name, "left");

        let own = Path::new("own.nii");
        let settings =
            read(&[("SPSAM_SAMPLE", &file), ("SPSAM_INPUT", own), ("SPSAM_MODEL", Path::new("m"))]).unwrap();
        assert_eq!(settings.input.unwrap(), own);
        assert!(settings.regions.is_empty());
    }

    #[test]
    fn an_input_without_a_model_asks_for_one() {
        let error = read(&[("SPSAM_SAMPLE", Path::new("x")), ("SPSAM_INPUT", Path::new("a.nii"))]);
        assert!(error.unwrap_err().to_string().contains("SPSAM_MODEL"));
    }

    #[test]
    fn the_shipped_sample_is_of_the_shipped_model() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hippocampus");
        let text = fs::read_to_string(folder.join("sample.yml")).unwrap();
        let sample: SampleFile = serde_yaml::from_str(&text).unwrap();
        assert!(sample.input.ends_with("sample/mni152_t1.nii.gz") && folder.join("model.yml").is_file());
    }
}
