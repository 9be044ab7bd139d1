//! `summary.json`: what a run did, in what it was made with, and its figures.

use std::io;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{LiveFigures, ReportError};
use crate::files::write_atomically;
use crate::metrics::{ABSENT_CLASS_CONVENTION, ClassSummary};

/// The contents of `summary.json`. Figures that are not defined (NaN, infinite) are written as `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// When the run started, RFC 3339, UTC ([`now_utc`]).
    pub started: String,
    /// Cases that were segmented.
    pub cases: usize,
    /// Cases that were not, and why.
    pub failed: Vec<FailedCase>,
    /// Mean of the classes' mean Dice; NaN without truth.
    pub dice_mean: f64,
    /// Means over cases by class name, in the order of the classes, without the background.
    #[serde(serialize_with = "as_map")]
    pub classes: Vec<(String, ClassSummary)>,
    /// What the figures mean.
    pub conventions: Conventions,
    /// The model.
    pub model: ModelInfo,
    /// Where it was asked to compute and how precisely: `auto, auto`, `cuda:0, bf16`.
    pub device: String,
    /// Versions of what it was made with.
    pub versions: Versions,
    /// How long it took.
    pub timings: Timings,
    /// How long the masks of live images took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveFigures>,
}

/// A case without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedCase {
    /// Name of the case.
    pub case: String,
    /// Why, in one line.
    pub error: String,
}

/// The model that was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// Name in the bundle.
    pub name: String,
    /// Backbone as the bundle spells it.
    pub backbone: String,
    /// Side of the square model input, pixels.
    pub image_size: i64,
    /// Class names, background first.
    pub classes: Vec<String>,
    /// Values of the classes in label maps, in the same order.
    pub label_values: Vec<u8>,
    /// sha256 of the backbone's weight file.
    pub weights_sha256: String,
    /// sha256 of the trained parts, where there are any.
    pub adapters_sha256: Option<String>,
}

/// Versions of the programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// This project.
    pub self_prompt_sam: String,
    /// dora, which moved the messages.
    pub dora: String,
    /// libtorch.
    pub torch: String,
    /// tch, the binding.
    pub tch: String,
}

/// How long the run took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// From the start of the run (the loader has joined the dataflow) to its last result, seconds.
    pub seconds_total: f64,
    /// `seconds_total` over the cases that were segmented.
    pub seconds_per_case: f64,
    /// Slices that the network has seen, overlapping and mirrored ones each time, over `seconds_total`.
    pub slices_per_second: f64,
    /// From the start of the run to the first label map on disk, seconds.
    pub time_to_first_result_s: f64,
    /// From the start of the command `dora run` (with `dora start`: from when dora took the dataflow on) to the first
    /// label map on disk, seconds: with the builds that the dataflow names, process starts and loading the model; NaN
    /// where it is not known.
    pub command_to_first_result_s: f64,
    /// Of the writer, from logits to files, summed over the cases: blending windows, labels on the original grid, label
    /// maps, figures and pictures; seconds. The network works on the next windows at the same time.
    pub seconds_export: f64,
}

/// What the figures mean, by figure; written as a map of [`CONVENTIONS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conventions;

impl Serialize for Conventions {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        as_map(&CONVENTIONS, to)
    }
}

/// What the figures mean, by figure.
pub const CONVENTIONS: [(&str, &str); 5] = [
    ("absent_class", ABSENT_CLASS_CONVENTION),
    ("dice_mean", "mean of the classes' means, the background left out"),
    ("hd95_mm", "95th percentile of the distances between the surfaces, in mm of the original grid"),
    ("nsd", "normalised surface Dice: part of the surfaces that lies within the tolerance"),
    ("use", "research only, not for clinical use"),
];

/// Now, RFC 3339 to the second, UTC.
pub fn now_utc() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Writes `summary.json`.
///
/// # Errors
/// [`ReportError::Io`].
pub fn write_summary(path: &Path, summary: &RunSummary) -> Result<(), ReportError> {
    write_atomically(path, |file| {
        serde_json::to_writer_pretty(&mut *file, summary).map_err(io::Error::from)?;
        file.write_all(b"\n")
    })
    .map_err(ReportError::io(path))
}

fn as_map<K: Serialize, V: Serialize, S: Serializer>(entries: &[(K, V)], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(entries.len()))?;
    for (key, value) in entries {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of two classes with one failed case.
    pub fn example() -> RunSummary {
        let means = |dice, hd95_mm, nsd| ClassSummary {
            dice,
            hd95_mm,
            hd95_cases: 1,
            hd95_mm_one_sided_as_diagonal: f64::NAN,
            nsd,
            absent: 0,
            one_sided: 1,
            missed: 1,
        };
        RunSummary {
            started: "2026-01-02T03:04:05Z".into(),
            cases: 2,
            failed: vec![FailedCase { case: "c3".into(), error: "c3.nii.gz: truncated".into() }],
            dice_mean: 0.875,
            classes: vec![
                ("spleen".into(), means(0.875, 2.5, 0.75)),
                ("liver".into(), means(f64::NAN, f64::INFINITY, f64::NAN)),
            ],
            conventions: Conventions,
            model: ModelInfo {
                name: "abdomen".into(),
                backbone: "lite_medsam".into(),
                image_size: 256,
                classes: ["background", "spleen", "liver"].map(String::from).to_vec(),
                label_values: vec![0, 1, 2],
                weights_sha256: "79d8".into(),
                adapters_sha256: None,
            },
            device: "cpu".into(),
            versions: Versions {
                self_prompt_sam: "0.1.0".into(),
                dora: "1.1.0".into(),
                torch: "2.11.0".into(),
                tch: "0.24.0".into(),
            },
            timings: Timings {
                seconds_total: 8.0,
                seconds_per_case: 4.0,
                slices_per_second: 2.5,
                time_to_first_result_s: 3.0,
                command_to_first_result_s: f64::NAN,
                seconds_export: 0.5,
            },
            live: None,
        }
    }

    #[test]
    fn the_summary_reads_back_with_null_for_what_is_not_defined() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        write_summary(&path, &example()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["cases"], 2);
        assert_eq!(read["failed"], serde_json::json!([{ "case": "c3", "error": "c3.nii.gz: truncated" }]));
        assert_eq!(read["dice_mean"], 0.875);
        let spleen = &read["classes"]["spleen"];
        assert_eq!((&spleen["dice"], &spleen["hd95_mm"]), (&0.875.into(), &2.5.into()));
        assert_eq!((&spleen["hd95_cases"], &spleen["missed"]), (&1.into(), &1.into()));
        let liver = &read["classes"]["liver"];
        for figure in ["dice", "hd95_mm", "nsd", "hd95_mm_one_sided_as_diagonal"] {
            assert!(liver[figure].is_null(), "{figure}");
        }
        assert!(
            text.find("\"spleen\"").unwrap() < text.find("\"liver\"").unwrap(),
            "classes keep their order"
        );
        assert_eq!(read["versions"]["tch"], "0.24.0");
        assert_eq!(read["model"]["backbone"], "lite_medsam");
        assert_eq!(read["timings"]["time_to_first_result_s"], 3.0);
        assert!(read["timings"]["command_to_first_result_s"].is_null());
        assert!(read["conventions"]["absent_class"].as_str().unwrap().contains("left out of all means"));
    }

    #[test]
    fn times_are_utc_to_the_second() {
        let now = now_utc();
        assert_eq!(now.len(), "2026-01-02T03:04:05Z".len(), "{now}");
        assert!(now.ends_with('Z'));
    }
}
