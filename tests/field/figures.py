"""Field cases about labels and figures: values with gaps, ignored voxels, missing and empty predictions."""

import re

import numpy as np
from trial import Trial, anywhere, strict_json, voxels


def sparse_values(t: Trial) -> None:
    results, rows = {}, {}
    for name in ("label_1_2", "label_7_250"):
        result, output = t.infer(name, "--input", "image.nii.gz", "--labels", f"{name}.nii.gz")
        if not t.need(result.exit == 0, f"{name}: exit {result.exit}"):
            return
        results[name] = result
        rows[name] = len((output / "metrics.csv").read_text().strip().splitlines())
    one, other = (voxels(t.output / name / "image.nii.gz") for name in results)
    expected = np.select([one == 1, one == 2], [7, 250], 0)
    t.need(np.array_equal(other, expected), f"values {np.unique(other)} are not 7 and 250 in the places of 1 and 2")
    t.need(len(set(rows.values())) == 1, f"lines of metrics.csv: {rows}")
    dense, sparse = results.values()
    t.need(sparse.seconds <= 2 * dense.seconds, f"{sparse.seconds:.1f} s with gaps, {dense.seconds:.1f} s without")
    t.need(sparse.peak_mb <= 2 * dense.peak_mb, f"{sparse.peak_mb:.0f} MB with gaps, {dense.peak_mb:.0f} MB without")
    t.note(f"{dense.seconds:.1f} s and {sparse.seconds:.1f} s, peak {dense.peak_mb:.0f} and {sparse.peak_mb:.0f} MB")
    name = "label_freesurfer_2035"
    result, _ = t.infer(name, "--input", "image.nii.gz", "--labels", f"{name}.nii.gz")
    t.refused(result, name, f"{name}.nii.gz", "2035")
    real = "real_ct_42of117_labels.nii.gz"
    if t.has("real_ct.nii.gz", real):
        result, output = t.infer("real", "--input", "real_ct.nii.gz", "--labels", real, timeout=1200)
        if t.need(result.exit == 0, f"real CT: exit {result.exit}"):
            strange = set(np.unique(voxels(output / "real_ct.nii.gz"))) - set(np.unique(voxels(t.folder / real)))
            t.need(not strange, f"real CT: values {strange} that the truth has not")
            t.note(f"real CT: {result.seconds:.0f} s, peak {result.peak_mb:.0f} MB")


def ignore_label(t: Trial) -> None:
    right = re.compile(r"\bclass_1\b.*Dice 1\.0000")
    plain = ("evaluate", "--predictions", "pred", "--labels", "truth")
    option = re.search(r"--ignore[a-z-]*", t.run("evaluate", "--help").text)
    if option:
        result = t.run(*plain, option[0], "255")
        t.need(result.exit == 0 and right.search(result.text), f"{option[0]} 255: exit {result.exit}, class_1 not 1.0000")
        t.need("class_255" not in result.text, f"{option[0]} 255: 255 is a class all the same")
        t.note(f"{option[0]} 255: class_1 has Dice 1.0000")
    for name, arguments in (("evaluate", plain), ("--classes", (*plain, "--classes", "background,blob"))):
        result = t.run(*arguments)
        if result.exit != 0:
            t.refused(result, name, "truth/case.nii.gz", "255")
        else:
            t.need("class_255" not in result.text, f"{name}: 255 is a class, exit 0")
            t.need(option and result.says("255"), f"{name}: 255 is taken without a word")
    result, _ = t.infer("infer", "--input", "image.nii.gz", "--labels", "truth/case.nii.gz")
    if result.exit != 0:
        t.refused(result, "infer", "case.nii.gz", "255")
    else:
        t.note("infer: exit 0, 255 as a value of its own")


def missing_and_empty(t: Trial) -> None:
    def evaluate(name: str, predictions: str, truth: str):
        output = t.output / name
        return t.run("evaluate", "--predictions", predictions, "--labels", truth, "--classes", "background,blob",
                     "--output", output), output / "summary.json"

    def mean(result) -> float | None:
        found = re.findall(r"mean Dice ([0-9.]+)", result.text)
        return float(found[-1]) if found else None

    result, _ = evaluate("pred_missing", "pred_missing", "truth")
    t.need(result.says("case_3"), "pred_missing: case_3 is not named")
    t.need(result.exit == 1 or mean(result) == 0.6667, f"pred_missing: exit {result.exit}, mean {mean(result)}")
    t.note(f"pred_missing: exit {result.exit}, mean {mean(result)}")

    result, summary = evaluate("pred_empty", "pred_empty", "truth")
    for case, figure in (("case_1", "1.0000"), ("case_2", "0.7902"), ("case_3", "0.0000")):
        t.need(re.search(rf"{case}\b.*Dice {figure}", result.text), f"pred_empty: {case} has not Dice {figure}")
    t.need(mean(result) == 0.5967, f"pred_empty: mean {mean(result)}, expected 0.5967")
    t.need(re.search(r"case_3\b.*NSD 0\.0000", result.text), "pred_empty: case_3 has not NSD 0")
    values = strict_json(summary)
    counted = anywhere(values, "one_sided") + anywhere(values, "missed")
    t.need(1 in counted, "pred_empty: summary.json does not count the missed structure")
    t.note(f"pred_empty: exit {result.exit}, mean {mean(result)}")

    result, summary = evaluate("both", "both_empty/pred", "both_empty/truth")
    t.need(mean(result) == 1.0, f"both_empty: mean {mean(result)}")
    t.need(1 in anywhere(strict_json(summary), "absent"), "both_empty: summary.json does not count absent: 1")


CHECKS = {"08": sparse_values, "09": ignore_label, "12": missing_and_empty}
