#!/usr/bin/env python3
"""From `spsam infer` on a small volume to its label map, and where the time goes: benches/startup.py --help.

    .spsam/venv/bin/python benches/startup.py --rounds 5

The volume has 48 x 40 x 12 voxels of 1 mm, cut out of the sample head. Moments are seen from outside: the start of `dora` and of
the nodes in /proc, the lines of the log, the label map when it is there. "libtorch" is how long a node takes that only loads its
libraries and then refuses its settings. The first round is not counted, so that files are in the disk cache.

Tables go to stderr, JSON goes to stdout.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from dataflow import NODES, PROJECT, descendants, machine, table

SAMPLE = PROJECT / ".spsam/sample/mni152_t1.nii.gz"
SPSAM = PROJECT / "target/release/spsam"
# The left hippocampus in the sample.
FIRST, SHAPE = (46, 76, 42), (48, 40, 12)
STEPS = ["dora", "nodes started", "nodes ready", "first window", "label map", "end"]
MEANING = {
    "dora": "`spsam` checks its arguments and starts dora",
    "nodes started": "dora reads the dataflow and starts the nodes",
    "nodes ready": "nodes load libtorch, the bundle and its weights, and join",
    "first window": "weights are packed when they are first used; a window goes through all nodes",
    "label map": "the other windows, and the label map",
    "end": "report, end of the nodes and of dora",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "models/hippocampus", help="bundle (default: models/hippocampus)")
    parser.add_argument("--rounds", type=int, default=5, help="runs that count (default 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spsam-startup-") as folder:
        image = Path(folder) / "small.nii.gz"
        cut(image)
        runs = [moments(options.model, image, Path(folder) / f"output-{index}") for index in range(options.rounds + 1)][1:]
        libtorch = min(refusal() for _ in range(3))
    parts = [[run[step] - run[before] for before, step in zip(["command", *STEPS], STEPS)] for run in runs]
    rows = [[step, *(f"{part[index]:.2f}" for part in parts), MEANING[step]] for index, step in enumerate(STEPS)]
    to_label_map = [run["label map"] for run in runs]
    rows.append(["command to label map", *(f"{seconds:.2f}" for seconds in to_label_map), f"median {np.median(to_label_map):.2f}"])
    print(table(["until", *(f"run {index + 1}, s" for index in range(len(runs))), ""], rows), file=sys.stderr)
    print(f"libtorch: {libtorch:.2f} s for each node, of which there are {len(NODES)}", file=sys.stderr)
    json.dump({"machine": machine(), "runs": runs, "libtorch_s": libtorch}, sys.stdout, indent=2)
    print()


def cut(path: Path) -> None:
    head = nib.load(SAMPLE)
    region = tuple(slice(first, first + side) for first, side in zip(FIRST, SHAPE))
    nib.save(head.slicer[region], path)


def moments(model: Path, image: Path, output: Path) -> dict[str, float]:
    """Seconds from the command to each moment."""
    started = time.monotonic()
    seen = {"command": 0.0}
    command = [SPSAM, "infer", "--model", model, "--input", image, "--output", output]
    progress = output.with_suffix(".progress")
    with progress.open("w") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    conditions = {
        "dora": lambda: bool(descendants(process.pid)),
        "nodes started": lambda: nodes(process.pid) == len(NODES),
        "nodes ready": lambda: "all nodes are ready" in log(output),
        "first window": lambda: ": window " in progress.read_text(),
        "label map": lambda: (output / image.name).exists(),
    }
    while process.poll() is None:
        for moment, has_come in conditions.items():
            if moment not in seen and has_come():
                seen[moment] = time.monotonic() - started
        time.sleep(0.01)
    seen["end"] = time.monotonic() - started
    if process.returncode != 0 or len(seen) != len(STEPS) + 1:
        raise SystemExit(f"spsam infer: {process.returncode}, seen {seen}; its log:\n{log(output)[-2000:]}")
    return seen


def nodes(root: int) -> int:
    count = 0
    for pid in descendants(root):
        try:
            count += Path(os.readlink(f"/proc/{pid}/exe")).name.removeprefix("spsam-") in NODES
        except OSError:
            pass  # it has ended
    return count


def log(output: Path) -> str:
    try:
        return (output / "spsam.log").read_text(errors="replace")
    except FileNotFoundError:
        return ""


def refusal() -> float:
    started = time.monotonic()
    environment = os.environ | {"SPSAM_MODEL": "/nonexistent"}
    node = PROJECT / "target/release/spsam-prompt-extractor"
    subprocess.run([node], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
