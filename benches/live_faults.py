#!/usr/bin/env python3
"""Live runs that are disturbed must end as an offline run: benches/live_faults.py --help.

    .spsam/venv/bin/python benches/live_faults.py --image .../hippocampus_003.nii.gz

A volume is sent to `dataflows/stream.yml` once undisturbed. Its DICOM files are then sent again and again:

- with every core busy with other work, twice over (`--busy`, 20 runs);
- with one node killed (SIGKILL) in the middle of the series, each in turn;
- with one node replaced by `dora node replace` in the middle of the series, each in turn.

In every run the label map must be byte for byte that of `infer.yml`, and every image must get its final mask. A table says what was
found; the exit status is 1 if any run differs. A sender whose connection breaks sends everything again, as scanners do.
"""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from dataflow import PROJECT, run, table
from stream import SAMPLE, Stream

NODES = ["scanner-source", "volume-loader", "image-encoder", "prompt-generator", "prompt-extractor", "mask-decoder", "metrics-writer"]


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="spsam-faults-", dir=options.folder) as folder:
        folder = Path(folder)
        series, expected = reference(options, folder)
        rows = []
        for index in range(options.busy):
            with busy():
                rows.append(disturbed(options, folder / f"busy{index}", series, expected, "busy", lambda stream: None))
        for node in options.nodes:
            rows.append(disturbed(options, folder / f"kill-{node}", series, expected, f"{node} killed", lambda stream: stream.kill(node)))
        for node in options.nodes:
            what, change = f"{node} replaced", lambda stream: stream.replace(node)
            rows.append(disturbed(options, folder / f"replace-{node}", series, expected, what, change, coordinator=True))
    header = ["run", "seconds", "images with a final mask", "provisional masks", "label map as offline"]
    print(table(header, rows))
    if any(row[-1] != "yes" for row in rows):
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "models/hippocampus", help="model bundle (default: hippocampus)")
    parser.add_argument("--image", type=Path, default=SAMPLE, help="NIfTI volume (default: the head that set-up installs)")
    parser.add_argument("--roi", default="", help="region, x0,y0,z0,x1,y1,z1 in world mm (default: everything)")
    parser.add_argument("--axis", help="axis along which slices are sent (default: as spsam send)")
    parser.add_argument("--rate", type=float, default=10, help="slices a second (default 10)")
    parser.add_argument("--busy", type=int, default=20, help="number of runs on a busy machine (default 20)")
    parser.add_argument("--nodes", nargs="*", default=NODES, help="nodes that are killed and replaced (default: all)")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    return parser.parse_args()


def settings(options: argparse.Namespace) -> dict[str, str]:
    return {"SPSAM_MODEL": str(options.model.resolve()), "SPSAM_ROI": options.roi, "SPSAM_SERIES": "1", "SPSAM_SERIES_IDLE_SECS": "30"}


def reference(options: argparse.Namespace, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """DICOM files of the volume, and the label map of an offline run by file name."""
    with Stream(folder / "undisturbed", settings(options)) as stream:
        stream.wait_until_ready()
        sender = stream.send(options.image, "--rate", options.rate, *(["--axis", options.axis] if options.axis else []))
        if sender.wait() != 0 or stream.finish() != 0:
            raise SystemExit(f"the undisturbed run failed:\n{stream.log()[-3000:]}")
        series = folder / "series"
        shutil.copytree(next((stream.output / ".spool").rglob("*.dcm")).parent, series)
        images = stream.output / "images"
        live = label_maps(stream.output)
    for file in series.glob("*.json"):
        file.unlink()
    run(folder / "offline", settings(options) | {"SPSAM_INPUT": str(images)}, "infer.yml")
    expected = label_maps(folder / "offline")
    if live != expected or len(expected) != 1:
        raise SystemExit("the undisturbed live run differs from the offline run")
    return series, expected


def label_maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def disturbed(options, folder: Path, series: Path, expected: dict[str, bytes], what: str, change, coordinator: bool = False) -> list[str]:
    """A run in which something changes when a third of the images have masks; a row of the table."""
    images = len(list(series.iterdir()))
    print(f"{what} ...", file=sys.stderr)
    with Stream(folder, settings(options), coordinator) as stream:
        stream.wait_until_ready()
        started = time.monotonic()
        sender = stream.send(series, "--rate", options.rate)
        stream.wait_for("masks", lambda: len(stream.masks()) >= images // 3)
        change(stream)
        for _ in range(5):
            if sender.wait() == 0:
                break
            time.sleep(1)
            sender = stream.send(series, "--rate", options.rate)
        else:
            raise SystemExit(f"{what}: the series cannot be sent:\n{stream.log()[-3000:]}")
        status = stream.finish(1200)
        seconds = time.monotonic() - started
        masks, found = stream.masks(), label_maps(stream.output)
        if status != 0 or found != expected:
            print(stream.log()[-3000:], file=sys.stderr)
    final = {mask["index"] for mask in masks if not mask["provisional"]}
    provisional = {mask["index"] for mask in masks if mask["provisional"]}
    verdict = "yes" if status == 0 and found == expected and len(final) == images else f"NO (status {status})"
    row = [what, f"{seconds:.1f}", f"{len(final)} of {images}", str(len(provisional)), verdict]
    print(" | ".join(row), file=sys.stderr)
    return row


@contextlib.contextmanager
def busy():
    """Keeps every core busy with two processes."""
    burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
