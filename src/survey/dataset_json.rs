//! `dataset.json` of the Medical Segmentation Decathlon and of nnU-Net (v1 and v2): names of classes and modalities,
//! and pairs of images and labels.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{Problem, Severity};

/// nnU-Net's name for the value of ignored voxels.
const IGNORE: &str = "ignore";

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetJson {
    /// The file.
    pub path: PathBuf,
    /// Class names by value, including the background.
    pub classes: BTreeMap<u8, String>,
    /// Value of ignored voxels.
    pub ignore: Option<u8>,
    /// Names of the modalities in order.
    pub modalities: Vec<String>,
    /// The training cases; empty if the file lists none.
    pub pairs: Vec<Listed>,
}

/// A training case listed in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its images: one file, or one per modality.
    pub images: Vec<PathBuf>,
    /// Its labels, if they are listed.
    pub labels: Option<PathBuf>,
}

impl DatasetJson {
    /// Reads the file in `folder`; `None` if it does not exist.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn read(folder: &Path) -> Option<Result<Self, String>> {
        let path = folder.join("dataset.json");
        if !path.is_file() {
            return None;
        }
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let read = fs::read(&path).map_err(|error| wrong(error.to_string())).and_then(|bytes| {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes); // byte-order mark
            let json: Value =
                serde_json::from_slice(bytes).map_err(|error| wrong(format!("not readable: {error}")))?;
            Ok(Self::from_value(&json, folder, path.clone()))
        });
        Some(read)
    }

    fn from_value(json: &Value, folder: &Path, path: PathBuf) -> Self {
        let mut read = Self { path, ..Self::default() };
        for (key, value) in json["labels"].as_object().into_iter().flatten() {
            // "1": "liver" (Decathlon, nnU-Net v1) or "liver": 1 (v2). Regions ("liver": [1, 2]) name no value.
            let (value, name) = match (key.parse::<u8>(), value) {
                (Ok(number), Value::String(name)) => (Some(number), name.as_str()),
                (_, value) => (integer(value), key.as_str()),
            };
            let Some(value) = value else { continue };
            if name.eq_ignore_ascii_case(IGNORE) {
                read.ignore = Some(value);
            } else {
                read.classes.insert(value, name.to_owned());
            }
        }
        let channels = [&json["channel_names"], &json["modality"]].into_iter().find_map(Value::as_object);
        let mut channels: Vec<(usize, String)> = channels
            .into_iter()
            .flatten()
            .filter_map(|(key, name)| Some((key.parse().ok()?, name.as_str()?.to_owned())))
            .collect();
        channels.sort();
        read.modalities = channels.into_iter().map(|(_, name)| name).collect();
        read.pairs = pairs(json, folder);
        read
    }
}

impl DatasetJson {
    /// Compares its class names with the model's names for the same values.
    pub fn contradiction(&self, classes: &BTreeMap<u8, String>) -> Option<Problem> {
        let differing: Vec<(&u8, &String, &String)> = classes
            .iter()
            .filter(|(value, _)| **value != 0)
            .filter_map(|(value, name)| Some((value, name, self.classes.get(value)?)))
            .filter(|(_, name, listed)| plain(name) != plain(listed))
            .collect();
        let is_elsewhere = |value: &u8, name: &String| {
            self.classes.iter().any(|(other, listed)| other != value && plain(listed) == plain(name))
        };
        let names: Vec<String> = differing
            .iter()
            .map(|(value, name, listed)| format!("{value} is `{listed}` there and `{name}` in the model"))
            .collect();
        let text = format!("{}: names of classes differ: {}", self.path.display(), names.join(", "));
        if differing.is_empty() {
            None
        } else if differing.iter().any(|(value, name, _)| is_elsewhere(value, name)) {
            Some(Problem::new(Severity::Error, None, format!("{text}; the names are exchanged")))
        } else {
            Some(Problem::new(Severity::Note, None, text))
        }
    }
}

/// A name without spelling variations.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn integer(value: &Value) -> Option<u8> {
    let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u8::try_from(number).ok()
}

/// Reads the cases under `training` (Decathlon, nnU-Net v1) or `dataset` (nnU-Net v2).
fn pairs(json: &Value, folder: &Path) -> Vec<Listed> {
    let files = |value: &Value| -> Vec<PathBuf> {
        let one = value.as_str().into_iter();
        let many = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        one.chain(many).map(|text| join(folder, text)).collect()
    };
    let listed = |entry: &Value| {
        let images = match entry {
            Value::Object(_) if entry.get("images").is_some() => files(&entry["images"]),
            Value::Object(_) => files(&entry["image"]),
            image => files(image),
        };
        let labels = files(&entry["label"]).into_iter().next();
        (!images.is_empty()).then_some(Listed { images, labels })
    };
    let training = json["training"].as_array().into_iter().flatten();
    let dataset = json["dataset"].as_object().into_iter().flat_map(|cases| cases.values());
    training.chain(dataset).filter_map(listed).collect()
}

/// Resolves a path such as `./imagesTr/a.nii.gz` in `folder`, without the dot.
fn join(folder: &Path, text: &str) -> PathBuf {
    let text = text.replace('\\', "/");
    folder.join(Path::new(&text).components().filter(|part| *part != Component::CurDir).collect::<PathBuf>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DatasetJson {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dataset.json"), text).unwrap();
        let read = DatasetJson::read(folder.path()).unwrap().unwrap();
        let relative = |path: &Path| path.strip_prefix(folder.path()).unwrap().to_path_buf();
        let pairs = read.pairs.iter().map(|pair| Listed {
            images: pair.images.iter().map(|path| relative(path)).collect(),
            labels: pair.labels.as_deref().map(relative),
        });
        DatasetJson { pairs: pairs.collect(), path: relative(&read.path), ..read }
    }

    fn classes(names: &[(u8, &str)]) -> BTreeMap<u8, String> {
        names.iter().map(|(value, name)| (*value, (*name).to_owned())).collect()
    }

    #[test]
    fn the_decathlons_form_is_read() {
        let read = read(
            r#"{"modality": {"1": "T2", "0": "T1"}, "labels": {"0": "background", "2": "b", "10": "a"},
                "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/y.nii.gz"}], "test": ["./z.nii"]}"#,
        );
        assert_eq!(read.modalities, ["T1", "T2"]);
        assert_eq!(read.classes, classes(&[(0, "background"), (2, "b"), (10, "a")]));
        let listed =
            Listed { images: vec!["imagesTr/x.nii.gz".into()], labels: Some("labelsTr/y.nii.gz".into()) };
        assert_eq!(read.pairs, [listed]);
    }

    #[test]
    fn nnu_nets_second_form_is_read() {
        let read = read(
            "\u{feff}{\"channel_names\": {\"0\": \"CT\"}, \"file_ending\": \".nii.gz\", \
             \"labels\": {\"background\": 0, \"whole\": [1, 2], \"core\": 2, \"ignore\": 3}, \
             \"dataset\": {\"a\": {\"images\": [\"p/0.nii.gz\", \"p/1.nii.gz\"], \"label\": \"l.nii.gz\"}}}",
        );
        assert_eq!(read.classes, classes(&[(0, "background"), (2, "core")]));
        assert_eq!((read.ignore, read.modalities.as_slice()), (Some(3), ["CT".to_owned()].as_slice()));
        assert_eq!(read.pairs[0].images, [PathBuf::from("p/0.nii.gz"), PathBuf::from("p/1.nii.gz")]);
    }

    #[test]
    fn other_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(DatasetJson::read(folder.path()).is_none());
        fs::write(folder.path().join("dataset.json"), "{nonsense").unwrap();
        let error = DatasetJson::read(folder.path()).unwrap().unwrap_err();
        assert!(error.contains("dataset.json") && !error.contains('\n'), "{error}");
        assert_eq!(read("[1, 2]").classes, BTreeMap::new());
    }

    #[test]
    fn exchanged_names_are_an_error_and_other_spellings_none() {
        let json = read(r#"{"labels": {"background": 0, "Left Ventricle": 1, "two": 2}}"#);
        let found = |names: &[(u8, &str)]| json.contradiction(&classes(names));
        assert_eq!(found(&[(0, "air"), (1, "left_ventricle"), (2, "two"), (3, "more")]), None);
        let exchanged = found(&[(1, "two"), (2, "left_ventricle")]).unwrap();
        assert_eq!(exchanged.severity, Severity::Error);
        assert!(
            exchanged.text.contains("dataset.json") && exchanged.text.contains("exchanged"),
            "{exchanged}"
        );
        assert_eq!(found(&[(1, "LV"), (2, "two")]).unwrap().severity, Severity::Note);
    }
}
