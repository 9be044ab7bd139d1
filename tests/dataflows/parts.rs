//! `spsam infer --part K --parts N`: runs that share the cases of a folder.

use std::fs;
use std::process::Command;

use super::harness::{Bench, Run, label_maps};

const CASES: usize = 3;

/// Segments a part of the cases into the folder `output`.
fn infer(bench: &Bench, output: &str, part: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spsam"));
    command.arg("infer").args(part);
    for (option, value) in
        [("--input", "images"), ("--model", "bundle"), ("--labels", "labels"), ("--output", output)]
    {
        command.arg(option).arg(bench.path(value));
    }
    command
}

fn start(bench: &Bench, output: &str, part: &[&str]) -> Run {
    let mut command = infer(bench, output, part);
    command.arg("--dataflow").arg(bench.dataflow("dataflows/infer.yml", |text| text));
    bench.launch(command, output, &[])
}

#[test]
fn parts_in_one_folder_make_up_the_whole() {
    let bench = Bench::new(CASES, 4);
    let mut whole = start(&bench, "whole", &[]);
    assert!(whole.finish().success(), "{}", whole.log());
    let mut parts: Vec<Run> =
        ["0", "1"].map(|part| start(&bench, "parts", &["--part", part, "--parts", "2"])).into();
    for part in &mut parts {
        assert!(part.finish().success(), "{}", part.log());
    }
    let folder = bench.path("parts");
    assert_eq!(label_maps(&folder).len(), CASES);
    assert_eq!(label_maps(&folder), whole.label_maps());
    let cases = |file: &str| -> i64 {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["cases"].as_i64().unwrap()
    };
    assert_eq!((cases("summary_0of2.json"), cases("summary_1of2.json")), (2, 1));
    for file in ["metrics", "report", "spsam"].map(|name| format!("{name}_1of2")) {
        let is_there = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&file);
        assert!(fs::read_dir(&folder).unwrap().flatten().any(is_there), "{file}");
    }
    let evaluated = Command::new(env!("CARGO_BIN_EXE_spsam"))
        .arg("evaluate")
        .arg("--predictions")
        .arg(&folder)
        .arg("--labels")
        .arg(bench.path("labels"))
        .arg("--output")
        .arg(&folder)
        .output()
        .unwrap();
    assert!(evaluated.status.success(), "{}", String::from_utf8_lossy(&evaluated.stderr));
    let mean = |folder: &str| {
        let text = fs::read_to_string(bench.path(folder).join("summary.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["dice_mean"].as_f64().unwrap()
    };
    assert!((mean("parts") - mean("whole")).abs() < 1e-9);

    // A run over all cases may replace what the runs over parts have written.
    let mut again = start(&bench, "parts", &[]);
    assert!(again.finish().success(), "{}", again.log());
}

#[test]
fn a_part_without_cases_is_refused_at_once() {
    let bench = Bench::new(1, 4);
    for (part, reason) in [(["1", "2"], "the input has 1"), (["2", "2"], "part 2 of 2 does not exist")] {
        let output = infer(&bench, "none", &["--part", part[0], "--parts", part[1]]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("SPSAM_PART") && said.contains(reason) && said.lines().count() == 1, "{said}");
    }
}
