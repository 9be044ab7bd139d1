#!/usr/bin/env python3
"""Hours of live segmentation: nothing is lost, and neither memory nor latency grows: benches/soak.py --help.

    .spsam/venv/bin/python benches/soak.py --minutes 60

`spsam send` sends the first slices of a volume again and again, each time as a new series, to `dataflows/stream.yml`. Every 10 seconds
the memory of each node and the size of the spool are taken. At the end every series must have a label map, equal to that of the
others and to that of `infer.yml`, and every image one final and at least one provisional mask. Tables compare each sixth of the run:
the largest memory of each node (resident and not shared), times of masks, and how far the final masks lag behind.

The machine must have nothing else to do: where complete series fall 64 behind, the receiver refuses further ones (A700), and
what is refused is counted as lost. Complete series are segmented without mirroring unless `--mirror` is given: at 10 slices a second two cores have no time for it.
Tables go to stderr, JSON goes to stdout. The exit status is 1 if something was lost.
"""

import argparse
import gzip
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import nibabel

from dataflow import PROJECT, fields, machine, run, shm_used, table
from latency import percentiles
from stream import Stream

EVERY_SECS = 10
PARTS = 6


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="spsam-soak-", dir=options.folder) as folder:
        report = soak(options, Path(folder))
    json.dump(report, sys.stdout, indent=2)
    print()
    if report["faults"]:
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="NIfTI volume, such as hippocampus_003.nii.gz")
    parser.add_argument("--model", type=Path, default=PROJECT / "models/hippocampus", help="model bundle (default: hippocampus)")
    parser.add_argument("--axis", default="axial", help="axis along which slices are sent (default axial)")
    parser.add_argument("--minutes", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--rate", type=float, default=10, help="slices a second (default 10)")
    parser.add_argument("--slices", type=int, default=30, help="slices of a series (default 30)")
    parser.add_argument("--mirror", action="store_true", help="mirror complete series as the model asks for")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    return parser.parse_args()


def soak(options: argparse.Namespace, folder: Path) -> dict:
    volume = cut(options, folder / "volume.nii.gz")
    series = max(round(options.minutes * 60 * options.rate / options.slices), PARTS)
    settings = {"SPSAM_MODEL": str(options.model.resolve()), "SPSAM_MIRROR": "1" if options.mirror else "0", "SPSAM_SPOOL_KEEP_MINS": "5"}
    samples = []
    with Stream(folder / "soak", settings | {"SPSAM_SERIES": str(series)}) as stream:
        stream.wait_until_ready()
        started, shm = time.monotonic(), shm_used()
        sender = stream.send(volume, "--axis", options.axis, "--rate", options.rate, "--repeat", series)
        while stream.process.poll() is None:
            samples.append(sample(stream, time.monotonic() - started, shm))
            if len(samples) % 30 == 0:
                print(f"{samples[-1]['s'] / 60:.0f} min: {samples[-1]['written']} of {series} series are written", file=sys.stderr)
            time.sleep(EVERY_SECS)
        status, sent = stream.process.returncode, sender.wait()
        wall = time.monotonic() - started
        masks, summary = stream.masks(), json.loads((stream.output / "summary.json").read_text())
        faults = check(stream, series, options.slices, masks)
        image = next((stream.output / "images").glob("*.nii.gz"))
        offline = run(folder / "offline", settings | {"SPSAM_INPUT": str(image)}, "infer.yml")
        if (folder / "offline" / image.name).read_bytes() != (stream.output / image.name).read_bytes():
            faults.append("the label map is not that of infer.yml")
    faults += [f"{what} ended with {code}" for what, code in (("the run", status), ("the sender", sent)) if code]
    restarts = stream.log().count("restarting")
    report = {
        "machine": machine(), "minutes": wall / 60, "series": series, "images": series * options.slices, "rate": options.rate,
        "faults": faults, "restarts": restarts, "offline_s": offline.summary["timings"]["seconds_total"],
        "live": summary["live"], "parts": parts(samples, masks, options.slices), "samples": samples,
    }
    show(report)
    return report


def cut(options: argparse.Namespace, path: Path) -> Path:
    """The first slices of the volume along the axis."""
    image = nibabel.load(options.image)
    codes = nibabel.aff2axcodes(image.affine)
    axis = next(index for index, code in enumerate(codes) if code in {"axial": "SI", "coronal": "AP", "sagittal": "LR"}[options.axis])
    if image.shape[axis] < options.slices:
        raise SystemExit(f"{options.image} has {image.shape[axis]} slices, fewer than {options.slices}")
    slicer = [slice(None)] * 3
    slicer[axis] = slice(0, options.slices)
    nibabel.save(image.slicer[tuple(slicer)], path)
    return path


def sample(stream: Stream, seconds: float, shm: int) -> dict:
    """Memory of the nodes and size of the spool, bytes, and the number of label maps."""
    nodes = {}
    for name, pid in stream.nodes().items():
        try:
            nodes[name] = fields(f"/proc/{pid}/status").get("RssAnon", 0)
        except OSError:
            continue  # it has ended
    spool = sum(path.stat().st_size for path in (stream.output / ".spool").rglob("*.dcm") if path.exists())
    written = len(list(stream.output.glob("*.nii.gz")))
    return {"s": seconds, "written": written, "nodes": nodes, "spool": spool, "shm": shm_used() - shm}


def check(stream: Stream, series: int, slices: int, masks: list[dict]) -> list[str]:
    """What was lost, one line each."""
    faults = []
    maps = [gzip.decompress(path.read_bytes()) for path in stream.output.glob("*.nii.gz")]
    if len(maps) != series:
        faults.append(f"{len(maps)} label maps of {series} series")
    if len(set(maps)) != 1:
        faults.append(f"{len(set(maps))} different label maps of one volume")
    for is_provisional, kind in ((True, "provisional"), (False, "final")):
        found = {(mask["series_id"], mask["index"]) for mask in masks if mask["provisional"] == is_provisional}
        if len(found) != series * slices:
            faults.append(f"{len(found)} {kind} masks of {series * slices} images")
    return faults


def parts(samples: list[dict], masks: list[dict], slices: int) -> list[dict]:
    """The run in equal parts of the time in which images came."""
    begin = min(mask["received_ns"] for mask in masks)
    span = (max(mask["received_ns"] for mask in masks) - begin) / 1e9
    part_of = lambda seconds: min(int(seconds * PARTS / span), PARTS - 1)
    found = []
    for part in range(PARTS):
        times: dict[str, list[float]] = {"provisional_s": [], "final_s": [], "final_after_last_image_s": []}
        for mask in masks:
            if part_of((mask["received_ns"] - begin) / 1e9) == part:
                seconds = (mask["sent_ns"] - mask["received_ns"]) / 1e9
                times["provisional_s" if mask["provisional"] else "final_s"].append(seconds)
                if not mask["provisional"] and mask["index"] == slices - 1:
                    times["final_after_last_image_s"].append(seconds)
        inside = [one for one in samples if part_of(one["s"]) == part]
        names = sorted({name for one in inside for name in one["nodes"]})
        memory = {name: max(one["nodes"].get(name, 0) for one in inside) for name in names}
        sizes = {what: max((one[what] for one in inside), default=0) for what in ("spool", "shm")}
        found.append({name: percentiles(values) if values else {} for name, values in times.items()} | {"memory": memory} | sizes)
    return found


def show(report: dict) -> None:
    found = report["parts"]
    header = ["", *(f"sixth {number + 1}" for number in range(PARTS))]
    rows = [[f"{name}, MB", *(f"{part['memory'].get(name, 0) / 1e6:.0f}" for part in found)] for name in sorted(found[0]["memory"])]
    rows += [[f"{name}, MB", *(f"{part[key] / 1e6:.0f}" for part in found)] for name, key in (("spool", "spool"), ("/dev/shm", "shm"))]
    for name, key in (("provisional mask", "provisional_s"), ("final masks after the last image", "final_after_last_image_s")):
        for percentile in ("p50", "p95", "max"):
            rows.append([f"{name}, {percentile}, s", *(f"{part[key].get(percentile, math.nan):.2f}" for part in found)])
    print(table(header, rows), file=sys.stderr)
    summary = f"{report['images']} images in {report['series']} series, {report['minutes']:.1f} min, {report['restarts']} restarts"
    print(f"{summary}: {'; '.join(report['faults']) or 'nothing lost'}", file=sys.stderr)


if __name__ == "__main__":
    main()
