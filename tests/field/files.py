"""Field cases about files: geometry, units, compression, names, headers and lists."""

import gzip
import re

import nibabel as nib
import numpy as np
from trial import NOISE, Trial, dice, same, voxels

BLOB = ("--box", "blob=-21,-13,20,3,5,42")


def labels_in_other_orientation(t: Trial) -> None:
    for name in ("ras", "als"):
        result, output = t.infer(name, "--input", "image.nii.gz", "--labels", f"label_{name}.nii.gz")
        if result.exit == 0:
            figures = dice(output / "image.nii.gz", t.folder / "truth_on_image_grid.nii.gz")
            t.need(all(figures.get(label, 0) >= 0.8 for label in (1, 2)), f"{name}: Dice {figures}")
            t.note(f"{name}: Dice in world space {', '.join(f'{value:.2f}' for value in figures.values())}")
        else:
            t.refused(result, name, f"label_{name}.nii.gz")
    for truth in ("truth", "truth_als"):
        result = t.run("evaluate", "--predictions", "pred", "--labels", truth)
        if result.exit == 0:
            t.need(re.search(r"class_1\b.*Dice 1\.0000", result.text), f"evaluate {truth}: no Dice 1.0000, exit 0")
            t.note(f"evaluate {truth}: exit 0")
        else:
            t.refused(result, f"evaluate {truth}", "pred/case.nii.gz", f"{truth}/case.nii.gz")


def labels_elsewhere(t: Trial) -> None:
    for name, words in (("label_50mm_off", ("50",)), ("label_identity", ())):
        result, _ = t.infer(name, "--input", "image.nii.gz", "--labels", f"{name}.nii.gz")
        words = (f"{name}.nii.gz", "image.nii.gz", *words)
        if result.exit == 0:
            t.need(any("warn" in line.lower() for line in result.lines(*words)), f"{name}: exit 0 without a warning")
            t.note(f"{name}: warned")
        else:
            t.refused(result, name, *words)
    result = t.run("evaluate", "--predictions", "pred", "--labels", "truth")
    t.need(result.exit == 0 and "HD95 5.000" in result.text and "Dice 0.5000" in result.text,
           f"evaluate truth: exit {result.exit}, not HD95 5.000 mm and Dice 0.5000")
    result = t.run("evaluate", "--predictions", "pred", "--labels", "truth_identity")
    t.need("HD95 1.000 mm" not in result.text, "truth_identity: HD95 in voxels")
    if result.exit == 0:
        t.need("HD95 5.000" in result.text and result.says("warn"), "truth_identity: not 5.000 mm with a warning")
        t.note("truth_identity: 5.000 mm with a warning")
    else:
        t.refused(result, "truth_identity", "pred/plate.nii.gz", "truth_identity/plate.nii.gz")


def float_rounding(t: Trial) -> None:
    outputs = []
    pairs = [("a", "image.nii.gz", "label_exact.nii.gz"), ("b", "image.nii.gz", "label_1e-4.nii.gz")]
    if t.has("mt1.nii.gz", "mt1_seg.nii.gz"):
        pairs.append(("c", "mt1.nii.gz", "mt1_seg.nii.gz"))
    for name, image, labels in pairs:
        result, output = t.infer(name, "--input", image, "--labels", labels)
        t.need(result.exit == 0, f"{labels}: exit {result.exit}")
        t.need(not result.says("warn", labels), f"{labels}: a warning")
        outputs.append(output / image)
    if t.need(all(path.exists() for path in outputs), "a label map is missing"):
        equal = outputs[0].read_bytes() == outputs[1].read_bytes()
        t.need(equal, "the label maps are not byte for byte the same")
        t.note("byte-identical" if equal else "different")


def units(t: Trial) -> None:
    spacing = re.compile(r"\b1\.5(0*)\s*(mm)?\s*[x×]\s*1\.5(0*)\s*(mm)?\s*[x×]\s*3(\.0*)?\b")
    outputs = {}
    for unit in ("unknown", "micron", "metre"):
        result = t.run("inspect", f"{unit}.nii.gz")
        refused = result.exit != 0 and result.says(f"{unit}.nii.gz")
        t.need((result.exit == 0 and spacing.search(result.text)) or refused, f"inspect {unit}: not 1.5 x 1.5 x 3 mm")
        result, output = t.infer(unit, "--model", t.project / "models/hippocampus", "--input", f"{unit}.nii.gz")
        if result.exit == 0:
            outputs[unit] = output / f"{unit}.nii.gz"
        else:
            t.refused(result, f"infer {unit}", f"{unit}.nii.gz", unit[:5])
        if unit == "unknown":
            t.need(result.exit == 0 and not result.says("warn", "unit"), "unknown: not silently taken for mm")
    for unit in set(outputs) - {"unknown"}:
        t.need(same(outputs["unknown"], outputs[unit]), f"{unit}: another label map than in mm")
    t.note(f"label maps of {', '.join(outputs)}")


def bytes_after_gzip(t: Trial) -> None:
    plain = None
    for name in ("plain", "two_members", "zero_padded", "two_members_padded"):
        result = t.run("inspect", f"{name}.nii.gz")
        lines = result.text.replace(name, "NAME").strip().splitlines()
        plain = plain or lines
        t.need(result.exit == 0 and lines == plain, f"inspect {name}: exit {result.exit}, {lines[-1:]}")
    result = t.run("inspect", "garbage.nii.gz")
    if result.exit == 0:
        t.need(result.says("garbage.nii.gz", "byte"), "garbage: read without a warning that names the file")
        t.note("garbage: read with a warning")
    else:
        t.refused(result, "garbage", "garbage.nii.gz")
        t.need("truncated" not in result.text, "garbage: called truncated")
    outputs = []
    for name in ("plain", "zero_padded"):
        result, output = t.infer(name, "--input", f"{name}.nii.gz", *BLOB)
        t.need(result.exit == 0, f"infer {name}: exit {result.exit}")
        outputs.append(output / f"{name}.nii.gz")
    t.need(same(*outputs), "zero_padded: other labels than plain")
    t.note("four files read alike")


def names(t: Trial) -> None:
    result = t.run("evaluate", "--predictions", "pred", "--labels", "truth")
    for case in ("case_1", "case_2"):
        for label in ("class_1", "class_2"):
            found = re.search(rf"{case}\S*\s+{label}\b.*Dice 1\.0000", result.text)
            t.need(found, f"evaluate: no Dice 1.0000 of {case} {label}")
    t.need(result.exit == 0, f"evaluate: exit {result.exit}")
    result, output = t.infer("images", "--input", "images", *BLOB)
    images = sorted(path.name for path in (t.folder / "images").iterdir())
    left_out = [name for name in images if not (output / name).exists()]
    unnamed = [name for name in left_out if not result.says(name.removesuffix(".nii.gz"))]
    t.need(not unnamed, f"left out without a word: {', '.join(unnamed)}")
    t.need(result.exit == 0 or left_out, f"infer: exit {result.exit}")
    t.note(f"{len(images) - len(left_out)} of {len(images)} segmented, {len(left_out)} left out by name")


def header_of_statistic(t: Trial) -> None:
    images = [("tstat.nii.gz", BLOB), ("real_tstat1.nii.gz", ("--box", "b=-20,-20,20,20,20,50"))]
    for name, box in images:
        if not t.has(name):
            continue
        result, output = t.infer(name.split(".")[0], "--input", name, *box)
        if not t.need(result.exit == 0 and (output / name).exists(), f"{name}: exit {result.exit}"):
            continue
        image, found = (nib.load(path).header for path in (t.folder / name, output / name))
        t.need(int(found["intent_code"]) in (0, 1002), f"{name}: intent {int(found['intent_code'])}")
        t.need(not float(found["intent_p1"]) and not bytes(found["intent_name"]).strip(b"\0"), f"{name}: intent's name")
        t.need(not bytes(found["aux_file"]).strip(b"\0"), f"{name}: aux_file {found['aux_file']}")
        largest = voxels(output / name).max()
        t.need(float(found["cal_max"]) in (0, float(largest)) and float(found["cal_min"]) == 0, f"{name}: cal_max")
        t.need(not int(found["slice_code"]) and not float(found["toffset"]), f"{name}: slice_code or toffset")
        for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "descrip"):
            t.need(np.array_equal(image[field], found[field]), f"{name}: {field} is not the image's")
        extender_is_true(t, output / name)
        t.note(f"{name}: intent {int(found['intent_code'])}")
    name = "real_extender_without_extension.nii.gz"
    if t.has(name):
        t.need(t.run("inspect", name).exit == 0, f"{name}: inspect fails")
        result, output = t.infer("extender", "--input", name, "--box", "b=-10,-10,-10,10,10,10",
                                 "--roi=-12,-12,-12,12,12,12")
        if t.need(result.exit == 0, f"{name}: exit {result.exit}"):
            extender_is_true(t, output / name)


def extender_is_true(t: Trial, path) -> None:
    """Byte 348 is 0, or an extension really follows."""
    with gzip.open(path) as stream:
        head = stream.read(360)
    size = int.from_bytes(head[352:356], "little")
    offset = int(np.frombuffer(head[108:112], "<f4")[0])
    t.need(head[348] == 0 or (size >= 16 and size % 16 == 0 and 352 + size <= offset), f"{path.name}: extender lies")


def lists(t: Trial) -> None:
    def maps(output) -> list[str]:
        return sorted(path.name for path in output.glob("*.nii.gz"))

    both = ["a.nii.gz", "b.nii.gz"]
    results = {name: t.infer(name, "--input", f"{name}.txt", *BLOB)
               for name in ("crlf", "bom", "utf16_powershell", "backslash", "twice", "one_missing", "empty")}
    for name in ("crlf", "bom"):
        result, output = results[name]
        t.need(result.exit == 0 and maps(output) == both, f"{name}: exit {result.exit}, {maps(output)}")
    for name, words in (("utf16_powershell", ("utf16_powershell.txt", "utf-16")), ("backslash", ("data\\a.nii.gz",))):
        result, output = results[name]
        if result.exit == 0:
            t.need(maps(output) == both, f"{name}: {maps(output)}")
            t.note(f"{name}: read")
        else:
            t.refused(result, name, *words)
    result, output = results["twice"]
    if result.exit == 0:
        t.need(maps(output) == both[:1], f"twice: {maps(output)}")
    else:
        t.refused(result, "twice", "a")
    result, output = results["one_missing"]
    t.need(result.exit == 1 and result.says("data/gone.nii.gz"), f"one_missing: exit {result.exit}, or not named")
    t.note(f"one_missing: {len(maps(output))} of 2 others segmented")
    t.refused(results["empty"][0], "empty", "empty.txt")
    noisy = [name for name, (result, _) in results.items() if any(result.says(noise) for noise in NOISE)]
    t.need(not noisy, f"noise: {', '.join(noisy)}")


CHECKS = {
    "01": labels_in_other_orientation,
    "02": labels_elsewhere,
    "03": float_rounding,
    "05": units,
    "06": bytes_after_gzip,
    "10": names,
    "15": header_of_statistic,
    "19": lists,
}
