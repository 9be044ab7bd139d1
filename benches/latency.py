#!/usr/bin/env python3
"""How long the masks of live images take, at several rates: benches/latency.py --help.

    .spsam/venv/bin/python benches/latency.py
    .spsam/venv/bin/python benches/latency.py --model models/acdc --image .../patient001_frame01.nii.gz --roi ""

A volume is sent by `spsam send` to `dataflows/stream.yml` at 1, 5 and 20 slices a second; `--rates 0` sends as fast as the
source takes them. Times of an image are from its last byte at the receiver to its provisional mask on the edge `masks`; images
outside the region of interest have masks, too, which need no network. "First mask" is from the last byte of the first image to
the first mask, "final masks" from that of the last image to the last final mask. "Offline" is seconds_total of `infer.yml` for
the same volume, "final - offline" is what a live run takes longer after the last image, and "same bytes" says whether both label
maps are equal. Further tables have the Dice of provisional masks, and everything that `live` in summary.json has, such as the parts
of these times.

Tables go to stderr, JSON goes to stdout.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from dataflow import PROJECT, machine, run, table
from stream import LEFT_HIPPOCAMPUS, SAMPLE, Stream, pixels


def main() -> None:
    options = parse()
    report = {"machine": machine(), "model": str(options.model), "image": options.image.name, "rates": {}}
    with tempfile.TemporaryDirectory(prefix="spsam-latency-", dir=options.folder) as folder:
        for rate in options.rates:
            print(f"{rate:g} slices a second ...", file=sys.stderr)
            report["rates"][f"{rate:g}"] = measure(options, rate, Path(folder) / f"{rate:g}")
    show(report["rates"])
    json.dump(report, sys.stdout, indent=2)
    print()
    if not all(found["as_offline"] for found in report["rates"].values()):
        raise SystemExit("a live label map differs from the offline one")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "models/hippocampus", help="model bundle (default: hippocampus)")
    parser.add_argument("--image", type=Path, default=SAMPLE, help="NIfTI volume (default: the head that set-up installs)")
    parser.add_argument("--roi", default=LEFT_HIPPOCAMPUS, help="region, x0,y0,z0,x1,y1,z1 in world mm (default: left hippocampus)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 5, 20], help="slices a second (default 1 5 20)")
    parser.add_argument("--axis", help="axis along which slices are sent (default: as spsam send)")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    return parser.parse_args()


def measure(options: argparse.Namespace, rate: float, folder: Path) -> dict:
    """A live run, and an offline run of the volume that it has written."""
    settings = {"SPSAM_MODEL": str(options.model.resolve()), "SPSAM_ROI": options.roi}
    with Stream(folder, settings | {"SPSAM_SERIES": "1"}) as stream:
        stream.wait_until_ready()
        sender = stream.send(options.image, "--rate", rate, *(["--axis", options.axis] if options.axis else []))
        if sender.wait() != 0 or stream.finish() != 0:
            raise SystemExit(f"the live run failed; its log:\n{stream.log()[-3000:]}")
        figures, masks = stream.live(), stream.masks()
        images = list((stream.output / "images").glob("*.nii.gz"))
    if len(images) != 1:
        raise SystemExit(f"{len(images)} volumes were made from the images; one is expected")
    offline = run(folder / "offline", settings | {"SPSAM_INPUT": str(images[0])}, "infer.yml")
    same = (folder / "offline" / images[0].name).read_bytes() == (stream.output / images[0].name).read_bytes()
    return figures_of(masks) | {
        "offline_s": offline.summary["timings"]["seconds_total"],
        "as_offline": same,
        "by_distance": by_distance(masks),
        "live": figures,
    }


def by_distance(masks: list[dict]) -> dict[int, dict]:
    """Dice of provisional masks against final ones over all classes, by the number of images that had come after theirs (at least)."""
    final = {mask["index"]: pixels(mask) for mask in masks if not mask["provisional"]}
    counts: dict[int, list[int]] = {}
    for mask in (mask for mask in masks if mask["provisional"]):
        newer = sum(mask["received_ns"] < other["received_ns"] <= mask["sent_ns"] for other in masks if other["provisional"])
        newer = max(start for start in (0, 1, 2, 4, 8, 16, 32) if start <= newer)
        one, other = pixels(mask), final[mask["index"]]
        count = counts.setdefault(newer, [0, 0, 0])
        count[0] += 1
        count[1] += int(((one == other) & (one > 0)).sum())
        count[2] += int((one > 0).sum() + (other > 0).sum())
    return {
        newer: {"images": images, "dice": 2 * both / total if total else None}
        for newer, (images, both, total) in sorted(counts.items())
    }


def figures_of(masks: list[dict]) -> dict:
    """Times of the masks, seconds."""
    provisional = [mask for mask in masks if mask["provisional"]]
    final = [mask for mask in masks if not mask["provisional"]]
    seconds = [(mask["sent_ns"] - mask["received_ns"]) / 1e9 for mask in provisional]
    received = [mask["received_ns"] for mask in masks]
    first = min(mask["sent_ns"] for mask in provisional)
    return {
        "provisional": {"images": len(seconds)} | percentiles(seconds),
        "first_mask_s": (first - min(received)) / 1e9,
        "final_masks_s": (max(mask["sent_ns"] for mask in final) - max(received)) / 1e9,
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """The smallest value that at least this part of the values does not exceed, as in summary.json."""
    values = sorted(values)
    return {name: values[max(math.ceil(part * len(values)), 1) - 1] for name, part in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}


def show(rates: dict[str, dict]) -> None:
    rows = []
    for rate, found in rates.items():
        times = found["provisional"]
        after = found["final_masks_s"] - found["offline_s"]
        numbers = [times["p50"], times["p95"], times["max"], found["first_mask_s"], found["final_masks_s"], found["offline_s"], after]
        rows.append([rate, str(times["images"]), *(f"{number:.2f}" for number in numbers), "yes" if found["as_offline"] else "NO"])
    header = ["slices/s", "images", "p50", "p95", "max", "first mask", "final masks", "offline", "final - offline", "same bytes"]
    print(table(header, rows), file=sys.stderr)
    rows = [
        [rate, str(newer), str(one["images"]), "no class" if one["dice"] is None else f"{one['dice']:.3f}"]
        for rate, found in rates.items()
        for newer, one in found["by_distance"].items()
    ]
    header = ["slices/s", "images that came meanwhile, at least", "masks", "Dice, provisional to final"]
    print("\n" + table(header, rows), file=sys.stderr)
    for kind in next(iter(rates.values()))["live"]:
        found = {rate: flat(rates[rate]["live"].get(kind) or {}) for rate in rates}
        keys = list(dict.fromkeys(key for figures in found.values() for key in figures))
        rows = [[key, *(f"{figures.get(key, math.nan):.4g}" for figures in found.values())] for key in keys]
        print(f"\nlive.{kind} of summary.json, seconds:\n" + table(["slices/s", *rates], rows), file=sys.stderr)


def flat(figures: dict, before: str = "") -> dict[str, float]:
    """Numbers at any depth by their path."""
    found = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}.")
        elif isinstance(value, (int, float)):
            found[before + key] = value
    return found


if __name__ == "__main__":
    main()
