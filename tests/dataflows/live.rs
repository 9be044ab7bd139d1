//! Live segmentation with the source of `examples/live-python`: what is shown while images arrive, and that the complete
//! series has the label map of an offline run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self_prompt_sam::volume::read_labels;

use super::harness::{Bench, Run, project, python};

const SLICES: usize = 10;

/// `dataflows/stream.yml` with the source of the example, and nodes that collect masks and pictures.
fn flow(bench: &Bench) -> PathBuf {
    let node = project().join("examples/live-python/frames_node.py");
    let collector = project().join("tests/python/collect_masks.py");
    let pictures = project().join("tests/python/collect_overlays.py");
    bench.dataflow("examples/live-python/dataflow.yml", |text| {
        let text = text.replace("path: frames_node.py", &format!("path: {}", node.display()));
        format!(
            "{text}
  - id: collector
    path: {}
    inputs:
      masks: {{ source: metrics-writer/masks, queue_size: 1024, queue_policy: drop_oldest }}
    input_types:
      masks: spsam/v1/Mask
    env:
      MASKS_TO: \"${{MASKS_TO}}\"
    finish_grace_secs: 86400
  - id: pictures
    path: {}
    inputs:
      image: {{ source: metrics-writer/overlay, queue_size: 64, queue_policy: drop_oldest }}
    input_types:
      image: spsam/v1/Overlay
    env:
      OVERLAYS_TO: \"${{OVERLAYS_TO}}\"
    finish_grace_secs: 86400
",
            collector.display(),
            pictures.display()
        )
    })
}

pub fn start(bench: &Bench, flow: &Path, output: &str, settings: &[(&str, &str)]) -> Run {
    let image = bench.path("images/case_0.nii.gz");
    let [masks, overlays] = ["masks", "overlays"].map(|what| bench.path(&format!("{output}-{what}")));
    // The nodes in Python need its packages.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", python().parent().unwrap().display());
    let common = [
        ("FRAMES_OF", image.to_str().unwrap()),
        ("MASKS_TO", masks.to_str().unwrap()),
        ("OVERLAYS_TO", overlays.to_str().unwrap()),
        ("SPSAM_INPUT", ""),
        ("SPSAM_LABELS", ""),
        ("PATH", &path),
    ];
    bench.start(flow, output, &[&common[..], settings].concat())
}

/// Masks by image and kind: rows, columns and values.
fn masks(bench: &Bench, output: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(bench.path(&format!("{output}-masks"))).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            // A file of numpy's format 1 ends with the values.
            let values = bytes[bytes.len() - 64 * 64..].to_vec();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), values)
        })
        .collect()
}

/// Fails unless the label map is byte for byte that of `infer.yml` for the image that was written beside it.
pub fn assert_as_offline(bench: &Bench, output: &str, offline: &str) {
    let images = bench.path(output).join("images");
    let flow = bench.dataflow("dataflows/infer.yml", |text| text);
    let mut run =
        bench.start(&flow, offline, &[("SPSAM_INPUT", images.to_str().unwrap()), ("SPSAM_LABELS", "")]);
    assert!(run.finish().success(), "{}", run.log());
    let [live, offline] =
        [output, offline].map(|folder| fs::read(bench.path(folder).join("case_0.nii.gz")).unwrap());
    assert!(live == offline, "the label map is not that of an offline run");
}

/// Pictures of the newest images have the outlines of their masks.
fn check_pictures(bench: &Bench, output: &str) {
    let [masks, overlays] = ["masks", "overlays"].map(|what| bench.path(&format!("{output}-{what}")));
    let last = overlays.join(format!("{:03}_final.npy", SLICES - 1));
    assert!(last.exists(), "no picture of the newest image");
    let script = project().join("tests/python/check_overlays.py");
    let image = bench.path("images/case_0.nii.gz");
    let output = Command::new(python()).arg(script).args([overlays, masks, image]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn every_image_is_shown_and_the_complete_series_is_segmented_as_offline() {
    let bench = Bench::new(1, SLICES);
    let flow = flow(&bench);
    for order in ["", "reversed", "interleaved"] {
        let output = format!("live{order}");
        let mut run = start(&bench, &flow, &output, &[("FRAMES_ORDER", order), ("FRAMES_PER_SECOND", "6")]);
        assert!(run.finish().success(), "{}", run.log());
        let masks = masks(&bench, &output);
        assert_eq!(masks.len(), 2 * SLICES, "{:?}; log:\n{}", masks.keys(), run.log());
        let labels = read_labels(&bench.path(&output).join("case_0.nii.gz")).unwrap().0;
        assert!(labels.iter().any(|&label| label != 0), "nothing to compare");
        for index in 0..SLICES {
            let stored = match order {
                "reversed" => SLICES - 1 - index,
                "interleaved" if index < SLICES.div_ceil(2) => 2 * index,
                "interleaved" => 2 * (index - SLICES.div_ceil(2)) + 1,
                _ => index,
            };
            // The normal of these images points down: their volume begins with the topmost.
            let slice = SLICES - 1 - stored;
            let expected: Vec<u8> = (0..64)
                .rev()
                .flat_map(|y| (0..64).map(move |x| [x, y]))
                .map(|[x, y]| labels[[x, y, slice]])
                .collect();
            assert_eq!(masks[&format!("{index:03}_final")], expected, "{order} {index}");
        }
        let live = &run.summary()["live"];
        assert_eq!(live["provisional"]["images"], SLICES);
        assert_eq!(live["complete"]["images"], SLICES);
        if order.is_empty() {
            check_pictures(&bench, &output);
        }
    }
    assert_as_offline(&bench, "liveinterleaved", "offline");
}

#[test]
fn loader_writer_and_stages_may_be_killed_while_images_arrive() {
    let bench = Bench::new(1, SLICES);
    let flow = flow(&bench);
    // The last one while the complete series is segmented.
    let cases = [
        ("spsam-volume-loader", "arriving", "arriving-masks/002_provisional.npy"),
        ("spsam-metrics-writer", "writer", "writer-masks/002_provisional.npy"),
        ("spsam-mask-decoder", "decoder", "decoder-masks/002_provisional.npy"),
        ("spsam-volume-loader", "complete", "complete/images/case_0.nii.gz"),
    ];
    for (program, output, file) in cases {
        let mut run = start(&bench, &flow, output, &[("FRAMES_PER_SECOND", "2")]);
        run.wait_for_file(&bench.path(file));
        run.kill(program);
        assert!(run.finish().success(), "{program}: {}", run.log());
        let finals = masks(&bench, output).into_keys().filter(|name| name.ends_with("final")).count();
        assert_eq!(finals, SLICES, "{program}: {}", run.log());
        assert_as_offline(&bench, output, &format!("{output}-offline"));
    }
}
