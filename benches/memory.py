#!/usr/bin/env python3
"""Memory of every node for few cases, for many cases and for one large CT: benches/memory.py --help.

    .spsam/venv/bin/python benches/memory.py --dataset .../Task04_Hippocampus --ct .../example_ct_sm.nii.gz

The first part shows that nothing grows with the number of cases: the peak of each node over 100 cases against that over
10. The second part is a CT of 512x512x300 voxels with 14 classes; it also gives the share of the time that the export
takes. Prompts are made from the labels; the network is plain LiteMedSAM, or the bundle given by --model.

Tables go to stderr, JSON goes to stdout.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from dataflow import Run, machine, run, table
from volumes import cut_slices, write_ct

SAMPLE_S = 0.25


def main() -> None:
    options = parse()
    report = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="spsam-memory-", dir=options.folder) as folder:
        if options.dataset:
            report["cases"] = cases(options, Path(folder))
        if options.ct:
            report["large"] = large(options, Path(folder))
    json.dump(report, sys.stdout, indent=2)
    print()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="folder with imagesTr and labelsTr; without it the first part is skipped")
    parser.add_argument("--few", type=int, default=10, help="cases of the first run (default 10)")
    parser.add_argument("--many", type=int, default=100, help="cases of the second run (default 100)")
    parser.add_argument("--cut", type=int, help="use only this many slices of each case, to save time")
    parser.add_argument("--ct", type=Path, help="a CT that is resampled to the large size; without it the second part is skipped")
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300], help="shape of the large CT (default 512 512 300)")
    parser.add_argument("--classes", type=int, default=14, help="number of classes of the large CT, background included (default 14)")
    parser.add_argument("--model", type=Path, help="model bundle (default: plain LiteMedSAM)")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    options = parser.parse_args()
    if not options.dataset and not options.ct:
        parser.error("--dataset, --ct or both")
    return options


def settings(options: argparse.Namespace, images: Path, labels: Path) -> dict[str, str]:
    model = str(options.model.resolve()) if options.model else ""
    return {"SPSAM_INPUT": str(images), "SPSAM_LABELS": str(labels), "SPSAM_MODEL": model}


def cases(options: argparse.Namespace, folder: Path) -> dict:
    """The dataset's cases, repeated from the first if there are too few."""
    found = sorted(path for path in (options.dataset / "imagesTr").glob("*.nii.gz") if not path.name.startswith("."))
    if not found:
        raise SystemExit(f"{options.dataset}/imagesTr: no volumes")
    runs = {}
    for count in (options.few, options.many):
        place = folder / f"{count}-cases"
        for index in range(count):
            image = found[index % len(found)].resolve()
            label = (options.dataset / "labelsTr" / image.name).resolve()
            for source, kind in ((image, "images"), (label, "labels")):
                target = place / kind / f"case{index:04}.nii.gz"
                target.parent.mkdir(parents=True, exist_ok=True)
                if options.cut:
                    cut_slices(source, options.cut, target)
                else:
                    target.symlink_to(source)
        print(f"{count} cases ...", file=sys.stderr)
        runs[count] = run(place / "output", settings(options, place / "images", place / "labels"), sample_s=SAMPLE_S)
        show(runs[count])
    few, many = runs[options.few], runs[options.many]
    ratios = {name: round(many.peaks[name].rss / peak.rss, 3) for name, peak in few.peaks.items()}
    rows = [
        [name, megabytes(few.peaks[name].rss), megabytes(many.peaks[name].rss), f"{ratio:.3f}"]
        for name, ratio in ratios.items()
    ]
    header = ["node", f"peak RSS, {options.few} cases", f"peak RSS, {options.many} cases", "ratio"]
    print(table(header, rows), file=sys.stderr)
    figures = {str(count): as_json(one) for count, one in runs.items()}
    return {"runs": figures, "peak_rss_ratio": ratios, "largest_ratio": max(ratios.values())}


def large(options: argparse.Namespace, folder: Path) -> dict:
    """One CT; the sum of the nodes' peaks and the share of the export."""
    image, label = folder / "large/images/ct.nii.gz", folder / "large/labels/ct.nii.gz"
    print(f"a CT of {options.shape} voxels with {options.classes} classes ...", file=sys.stderr)
    write_ct(options.ct, tuple(options.shape), options.classes, image, label)
    result = run(folder / "large/output", settings(options, image, label), sample_s=SAMPLE_S)
    show(result)
    timings = result.summary["timings"]
    share = timings["seconds_export"] / timings["seconds_total"]
    total = sum(peak.pss for peak in result.peaks.values())
    print(f"sum of the peaks {megabytes(total)} PSS, export {100 * share:.1f}% of the time", file=sys.stderr)
    return as_json(result) | {
        "shape": options.shape,
        "classes": options.classes,
        "sum_of_peaks_gb": round(total / 1e9, 3),
        "export_share": round(share, 4),
    }


def show(result: Run) -> None:
    rows = [
        [name, megabytes(peak.rss), megabytes(peak.anonymous), megabytes(peak.pss)]
        for name, peak in sorted(result.peaks.items())
    ]
    print(table(["node", "peak RSS", "of it its own", "peak PSS"], rows), file=sys.stderr)
    print(
        f"all at one time {megabytes(result.peak_sum_pss)} PSS, /dev/shm {megabytes(result.peak_shm)}, "
        f"{result.wall_s:.1f} s",
        file=sys.stderr,
    )


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def as_json(result: Run) -> dict:
    return {
        "wall_s": round(result.wall_s, 2),
        "timings": result.summary["timings"],
        "dice_mean": result.summary["dice_mean"],
        "peaks_mb": {
            name: {"rss": round(peak.rss / 1e6), "anonymous": round(peak.anonymous / 1e6), "pss": round(peak.pss / 1e6)}
            for name, peak in sorted(result.peaks.items())
        },
        "peak_sum_pss_mb": round(result.peak_sum_pss / 1e6),
        "peak_shm_mb": round(result.peak_shm / 1e6),
    }


if __name__ == "__main__":
    main()
