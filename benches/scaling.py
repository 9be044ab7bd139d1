#!/usr/bin/env python3
"""Growth of the time of a run with slices, classes, window overlap and image size: benches/scaling.py --help.

    .spsam/venv/bin/python benches/scaling.py --ct .../example_ct_sm.nii.gz

Each is varied with the others fixed, as a user would run it: `dora run dataflows/oracle.yml` on a CT with made-up organs,
prompts from their labels, plain LiteMedSAM. The time is summary.json's `seconds_total`, which begins when all nodes have
loaded their weights. A line `seconds = a + b x` is fitted to the medians by least squares; R2 says how much of the
variation it explains. For the overlap, x is the number of slices that the network sees; for the image size, its pixels.

Tables go to stderr, JSON goes to stdout.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataflow import WEIGHTS, WEIGHTS_SHA256, machine, run, table
from volumes import write_ct

IN_PLANE = 256
DEPTH = 8  # slices per window


@dataclass(frozen=True)
class Point:
    """One setting of all parameters."""

    slices: int = 32
    classes: int = 4  # background included
    overlap: float = 0.0
    image_size: int = 256
    backbone: str = "lite_medsam"

    def seen(self) -> int:
        """Slices processed by the network, with windows placed as in src/volume/windows.rs."""
        if self.slices <= DEPTH:
            return self.slices
        steps = int(np.ceil((self.slices - DEPTH) / max(DEPTH * (1 - self.overlap), 1)))
        return DEPTH * (max(steps, 1) + 1)


def main() -> None:
    options = parse()
    base = Point(slices=options.slices)
    sweeps = {
        "slices": [Point(slices=slices) for slices in scaled([16, 32, 64, 96], options)],
        "classes": [Point(slices=base.slices, classes=classes) for classes in (2, 4, 8, 14)],
        "overlap": [Point(slices=base.slices, overlap=overlap) for overlap in (0.0, 0.25, 0.5, 0.75)],
        "image_size": [Point(slices=base.slices, image_size=size) for size in (64, 128, 192, 256)],
    }
    if options.vit_b:
        few = max(DEPTH, base.slices // 4)
        sweeps["image_size_vit_b"] = [Point(few, 4, 0.0, size, "vit_b") for size in (256, 512, 1024)]
    if options.only:
        sweeps = {name: sweeps[name] for name in options.only}
    report = {"machine": machine(), "rounds": options.rounds, "sweeps": {}}
    with tempfile.TemporaryDirectory(prefix="spsam-scaling-", dir=options.folder) as folder:
        bench = Bench(options, Path(folder))
        for name, points in sweeps.items():
            report["sweeps"][name] = sweep(bench, name, points)
    json.dump(report, sys.stdout, indent=2)
    print()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, required=True, help="the CT that volumes are made from")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting (default 3)")
    parser.add_argument("--slices", type=int, default=32, help="slices unless varied (default 32)")
    names = ["slices", "classes", "overlap", "image_size", "image_size_vit_b"]
    parser.add_argument("--only", nargs="+", choices=names, help="only these (default: all)")
    parser.add_argument("--vit-b", action="store_true", help="also a ViT-B with random weights at 256, 512 and 1024")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    options = parser.parse_args()
    options.vit_b = options.vit_b or "image_size_vit_b" in (options.only or [])
    return options


def scaled(slices: list[int], options: argparse.Namespace) -> list[int]:
    """For another number of slices, in proportion, in whole windows."""
    return [max(DEPTH, round(count * options.slices / 32 / DEPTH) * DEPTH) for count in slices]


class Bench:
    """Volumes and bundles, made when first needed, and times of settings, each measured once."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.ct, self.rounds, self.folder = options.ct, options.rounds, folder
        self.times: dict[Point, list[float]] = {}

    def seconds(self, point: Point) -> list[float]:
        if point not in self.times:
            image, label = self.volume(point)
            settings = {
                "SPSAM_INPUT": str(image),
                "SPSAM_LABELS": str(label),
                "SPSAM_MODEL": str(self.bundle(point)),
            }
            runs = [run(self.folder / "output", settings) for _ in range(self.rounds)]
            self.times[point] = [one.summary["timings"]["seconds_total"] for one in runs]
        return self.times[point]

    def volume(self, point: Point) -> tuple[Path, Path]:
        place = self.folder / f"volume-{point.slices}-{point.classes}"
        image, label = place / "images/ct.nii.gz", place / "labels/ct.nii.gz"
        if not image.exists():
            write_ct(self.ct, (IN_PLANE, IN_PLANE, point.slices), point.classes, image, label)
        return image, label

    def bundle(self, point: Point) -> Path:
        name = f"{point.backbone}-{point.image_size}-{point.classes}-{point.overlap}"
        place = self.folder / name
        place.mkdir(exist_ok=True)
        weights, sha256 = (WEIGHTS, WEIGHTS_SHA256) if point.backbone == "lite_medsam" else self.vit_b()
        config = {
            "name": name,
            "classes": ["background", *(f"organ_{index}" for index in range(1, point.classes))],
            "modalities": ["CT"],
            "patch": {
                "depth": DEPTH,
                "plane": {"whole_slice": point.image_size},
                "depth_overlap": point.overlap,
                "plane_overlap": 0.0,
            },
            "normalisation": {"window": {"low": -160.0, "high": 240.0}},
            "network": {
                "backbone": point.backbone,
                "image_size": point.image_size,
                "adapter": "none",
                "depth_position": False,
                "modality_adapter": False,
                "generator": "none",
                "classes_adapter": False,
                "prompts": {"point": None, "box": True, "mask": False},
            },
            "weights": {"file": str(weights), "sha256": sha256},
        }
        (place / "model.yml").write_text(json.dumps(config, indent=2))  # YAML as well
        return place

    def vit_b(self) -> tuple[Path, str]:
        """A checkpoint of SAM ViT-B with random weights: they do not affect the time."""
        path = self.folder / "vit_b.pth"
        if not path.exists():
            import torch
            from segment_anything import sam_model_registry

            torch.manual_seed(0)
            torch.save(sam_model_registry["vit_b"]().state_dict(), path)
        with path.open("rb") as file:
            return path, hashlib.file_digest(file, "sha256").hexdigest()


def sweep(bench: Bench, name: str, points: list[Point]) -> dict:
    measure = {
        "slices": lambda point: point.slices,
        "classes": lambda point: point.classes - 1,
        "overlap": Point.seen,
    }.get(name, lambda point: point.image_size**2)
    unit = {"slices": "slice", "classes": "prompt of every slice", "overlap": "slice seen"}.get(name, "pixel")
    rows = []
    for point in points:
        print(f"{name}: {point} ...", file=sys.stderr)
        times = bench.seconds(point)
        rows.append({"setting": vars(point), "x": measure(point), "seconds": [round(time, 3) for time in times]})
    x = np.array([row["x"] for row in rows], float)
    y = np.array([statistics.median(row["seconds"]) for row in rows])
    slope, start = np.polyfit(x, y, 1)
    residual = ((y - (start + slope * x)) ** 2).sum()
    r2 = 1 - residual / max(((y - y.mean()) ** 2).sum(), 1e-12)
    header = [name.removesuffix("_vit_b"), f"x ({unit})", "median s", "lowest to highest", "a + b x"]
    lines = [
        [
            str(row["setting"][name.removesuffix("_vit_b")]),
            str(row["x"]),
            f"{median:.2f}",
            f"{min(row['seconds']):.2f} to {max(row['seconds']):.2f}",
            f"{start + slope * row['x']:.2f}",
        ]
        for row, median in zip(rows, y)
    ]
    print(table(header, lines), file=sys.stderr)
    print(f"seconds = {start:.2f} + {slope:.4g} x, R2 {r2:.4f}\n", file=sys.stderr)
    return {"points": rows, "fit": {"a_s": float(start), "b_s": float(slope), "r2": float(r2), "x": unit}}


if __name__ == "__main__":
    main()
