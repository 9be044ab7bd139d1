"""Field case about the data sets that users train on."""

import json
from pathlib import Path

from trial import Result, Trial

REFUSED = {
    "one_case": ("case",),
    "label_missing": ("case_02",),
    "label_value_3": ("case_01", "3"),
    "nan_in_one": ("case_01",),
}
TRAINED = ("good", "class_two_nowhere", "one_case_all_background", "smaller_than_patch", "constant_image")


def losses(output: Path) -> list:
    text = (output / "history.json").read_text()
    points = json.loads(text)["points"]
    return [(point["auxiliary_loss"], point["final_loss"]) for point in points]


def datasets(t: Trial) -> None:
    def train(name: str) -> tuple[Result, Path]:
        output = t.output / name
        return t.run("train", "--config", "config.yml", "--data", name, "--output", output, "--in-process"), output

    for name, words in REFUSED.items():
        result, output = train(name)
        t.refused(result, name, *words)
        t.need(not list(output.rglob("model.yml")), f"{name}: a bundle all the same")
    for name in TRAINED:
        result, output = train(name)
        bundle = t.need(result.exit == 0, f"{name}: exit {result.exit}") and list(output.rglob("model.yml"))
        t.need(bundle, f"{name}: no bundle")
    # The flipped label is that of `good` stored in another orientation: brought to its image it trains the same model.
    name = "label_flipped_affine"
    result, output = train(name)
    if result.exit == 0 and not result.says("labelsTr/case_01.nii.gz"):
        t.need(losses(output) == losses(t.output / "good"), f"{name}: trained on the mirrored label, silently")
        t.note(f"{name}: the losses of good")
    elif result.exit == 0:
        t.note(f"{name}: warned")
    else:
        t.refused(result, name, "labelsTr/case_01.nii.gz")
    name = "json_pairs_other_names"
    result, output = train(name)
    if result.exit == 0:
        t.need(result.says("case_03") or result.says("2 cases to learn from, 1 to validate"), f"{name}: case_03?")
        t.note(f"{name}: trained")
    else:
        t.refused(result, name, "label")
    name = "json_names_exchanged"
    result, output = train(name)
    t.need(result.says("dataset.json"), f"{name}: dataset.json is not named, exit {result.exit}")
    t.note(f"{name}: exit {result.exit}")


CHECKS = {"31": datasets}
