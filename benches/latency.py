#!/usr/bin/env python3
"""How long the masks of live images take, at several rates: benches/latency.py --help.

    .spsam/venv/bin/python benches/latency.py
    .spsam/venv/bin/python benches/latency.py --model models/acdc --image .../patient001_frame01.nii.gz --roi ""

A volume is sent by `spsam send` to `dataflows/stream.yml` at 1, 5 and 20 slices a second; `--rates 0` sends as fast as the
source takes them. Times of an image are from its last byte at the receiver to its provisional mask on the edge `masks`; images
outside the region of interest have masks, too, which need no network. "First mask" is from the last byte of the first image to
the first mask, "final masks" from that of the last image to the last final mask. "Offline" is seconds_total of `infer.yml` for
the same volume, and the last column is what a live run takes longer after the last image. Further tables have everything that
`live` in summary.json has, such as the parts of these times.

Tables go to stderr, JSON goes to stdout.
"""

import argparse
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dataflow import DORA, PROJECT, machine, run, table, without_builds

SAMPLE = PROJECT / ".spsam/sample/mni152_t1.nii.gz"
LEFT_HIPPOCAMPUS = "-44,-46,-32,-9,6,6"
SPSAM = PROJECT / "target/release/spsam"
COLLECTOR = """
  - id: mask-times
    path: {node}
    inputs:
      masks: {{ source: metrics-writer/masks, queue_size: 4096, queue_policy: drop_oldest }}
    input_types:
      masks: spsam/v1/Mask
    finish_grace_secs: 86400
"""
START_SECS = 300  # until the receiver listens


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
    output, times = folder / "live", folder / "times.jsonl"
    folder.mkdir(parents=True)
    settings = {"SPSAM_MODEL": str(options.model.resolve()), "SPSAM_ROI": options.roi}
    live(options, rate, output, times, settings)
    figures = json.loads((output / "summary.json").read_text())["live"]
    masks = [json.loads(line) for line in times.read_text().splitlines()]
    images = list((output / "images").glob("*.nii.gz"))
    if len(images) != 1:
        raise SystemExit(f"{len(images)} volumes were made from the images; one is expected")
    offline = run(folder / "offline", settings | {"SPSAM_INPUT": str(images[0])}, "infer.yml")
    return figures_of(masks) | {
        "offline_s": offline.summary["timings"]["seconds_total"],
        "live": figures,
    }


def live(options: argparse.Namespace, rate: float, output: Path, times: Path, settings: dict[str, str]) -> None:
    """Runs the dataflow, sends the volume to it, and waits for both."""
    flow = without_builds("stream.yml", output.parent)
    with flow.open("a") as file:
        file.write(COLLECTOR.format(node=PROJECT / "benches/mask_times.py"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{}".format(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
    environment |= settings | {
        "SPSAM_OUTPUT": str(output),
        "SPSAM_SERIES": "1",
        "SPSAM_LISTEN": address,
        "MASK_TIMES": str(times),
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
    }
    log = output.with_suffix(".log")
    command = [SPSAM, "send", options.image, "--to", address, "--rate", str(rate), "--wait", str(START_SECS)]
    with log.open("w") as sink:
        dora = subprocess.Popen([DORA, "run", flow], env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        try:
            # The receiver listens before the other nodes have loaded their weights, which no scanner would wait for.
            wait_for(log, dora, "listens on")
            time.sleep(2)
            sent = subprocess.run([*command, *(["--axis", options.axis] if options.axis else [])], stdout=sys.stderr)
            if sent.returncode == 0:
                dora.wait()
        finally:
            dora.terminate()  # dora stops its nodes
            dora.wait()
    if sent.returncode != 0 or dora.returncode != 0:
        raise SystemExit(f"the live run failed; its log:\n{log.read_text()[-3000:]}")


def wait_for(log: Path, process: subprocess.Popen, text: str) -> None:
    until = time.monotonic() + START_SECS
    while not re.search(text, log.read_text()):
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"the dataflow does not start; its log:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


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
        rows.append([rate, str(times["images"]), *(f"{number:.2f}" for number in numbers)])
    header = ["slices/s", "images", "p50", "p95", "max", "first mask", "final masks", "offline", "final - offline"]
    print(table(header, rows), file=sys.stderr)
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
