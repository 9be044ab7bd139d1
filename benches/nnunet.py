#!/usr/bin/env python3
"""Seconds a case of this project and of nnU-Net (PyPI nnunetv2, 2D, default plans) on the same cases: benches/nnunet.py --help.

    python3 -m venv nnunet && nnunet/bin/pip install nnunetv2==2.8.1
    nnunet/bin/python benches/nnunet.py --data .../ACDC --model models/acdc --cases 3

nnU-Net plans for the whole dataset and predicts with its own predictor and mirroring. Its network has random weights: what it
computes, and so its time, does not depend on them. Ours is `dataflows/infer.yml` with the bundle's own settings. Both get all
threads. The time of a case is from file to label map, in processes that are warm: nnU-Net predicts a case before
those that count; ours is the time that a run over all cases takes longer than a run over the first.

A table goes to stderr, JSON goes to stdout.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from dataflow import machine, run, table

NAME = "Dataset001_Bench"
PLANS = "nnUNetPlans"


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="spsam-nnunet-") as folder:
        report = measure(options, Path(folder))
    json.dump(report, sys.stdout, indent=2)
    print()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset: imagesTr and labelsTr, or patients as ACDC has them")
    parser.add_argument("--model", type=Path, required=True, help="bundle for that dataset")
    parser.add_argument("--cases", type=int, default=3, help="cases that count, spread over the dataset (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("--rounds", type=int, default=3, help="each side in turn, this often (default 3)")
    parser.add_argument("--precision", default="auto", help="precision of ours (default auto)")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> dict:
    pairs = cases(options.data)
    step = len(pairs) / (options.cases + 1)
    chosen = [pairs[int(index * step)][0] for index in range(options.cases + 1)]  # the first one warms up
    theirs = NnUnet(pairs, folder, options.threads)
    rounds = []
    for number in range(options.rounds):
        seconds = {"nnunet": theirs.seconds(chosen), "ours": ours(options, chosen, folder / f"ours-{number}")}
        rounds.append(seconds | {"ratio": seconds["ours"] / seconds["nnunet"]})
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
    names = ["nnunet", "ours", "ratio"]
    rows = [[str(number + 1), *(f"{seconds[name]:.2f}" for name in names)] for number, seconds in enumerate(rounds)]
    print(table(["round", "nnU-Net 2D, s a case", "ours, s a case", "ours / nnU-Net"], rows), file=sys.stderr)
    return {
        "machine": machine(),
        "threads": options.threads,
        "precision": options.precision,
        "cases": [path.name for path in chosen[1:]],
        "nnunet_patch": theirs.patch,
        "rounds": rounds,
    }


def cases(data: Path) -> list[tuple[Path, Path]]:
    """Image and labels of each case."""
    if (data / "imagesTr").is_dir():
        images = sorted((data / "imagesTr").glob("[!.]*.nii.gz"))
        found = [(image, data / "labelsTr" / image.name) for image in images]
    else:
        labels = sorted(data.glob("*/*_gt.nii.gz"))
        found = [(path.with_name(path.name.replace("_gt", "")), path) for path in labels]
    if not found or not all(image.is_file() and label.is_file() for image, label in found):
        raise SystemExit(f"{data}: no images with labels in a layout that is known here")
    return found


class NnUnet:
    """nnU-Net's 2D predictor on the CPU."""

    def __init__(self, pairs: list[tuple[Path, Path]], folder: Path, threads: int) -> None:
        for variable in ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"]:
            os.environ[variable] = str(folder / variable)
        import nibabel
        import numpy as np
        import torch
        from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        torch.set_num_threads(threads)
        raw = folder / "nnUNet_raw" / NAME
        values: set[int] = set()
        for image, label in pairs:
            name = image.name.removesuffix(".nii.gz")
            for path, link in [(image, f"imagesTr/{name}_0000.nii.gz"), (label, f"labelsTr/{name}.nii.gz")]:
                (raw / link).parent.mkdir(parents=True, exist_ok=True)
                (raw / link).symlink_to(path.resolve())
            values |= {int(value) for value in np.unique(np.asarray(nibabel.load(label).dataobj))}
        labels = {"background" if value == 0 else f"class_{value}": value for value in sorted(values)}
        description = {
            "channel_names": {"0": "MR"},
            "labels": labels,
            "numTraining": len(pairs),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
        }
        (raw / "dataset.json").write_text(json.dumps(description))
        with StandardOutputElsewhere():
            extract_fingerprints([1], num_processes=threads, check_dataset_integrity=False)
            plan_experiments([1])
        manager = PlansManager(str(folder / "nnUNet_preprocessed" / NAME / f"{PLANS}.json"))
        plan = manager.get_configuration("2d")
        network = get_network_from_plans(
            plan.network_arch_class_name,
            plan.network_arch_init_kwargs,
            plan.network_arch_init_kwargs_req_import,
            1,
            len(labels),
            deep_supervision=False,
        )
        self.patch = list(plan.patch_size)
        self.predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=True,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        self.predictor.manual_initialization(
            network, manager, plan, [network.state_dict()], description, "nnUNetTrainer", (0, 1)
        )
        self.reader = manager.image_reader_writer_class()
        self.folder = folder

    def seconds(self, images: list[Path]) -> float:
        """Seconds a case, of all but the first."""
        for index, image in enumerate(images):
            if index == 1:
                started = time.monotonic()
            with StandardOutputElsewhere():
                voxels, properties = self.reader.read_images([str(image)])
                self.predictor.predict_single_npy_array(voxels, properties, None, str(self.folder / "prediction"), False)
        return (time.monotonic() - started) / (len(images) - 1)


def ours(options: argparse.Namespace, images: list[Path], folder: Path) -> float:
    """Seconds a case, of all but the first."""
    folder.mkdir()

    def seconds(count: int) -> float:
        listed = folder / f"{count}.txt"
        listed.write_text("".join(f"{image.resolve()}\n" for image in images[:count]))
        settings = {
            "SPSAM_INPUT": str(listed),
            "SPSAM_MODEL": str(options.model.resolve()),
            "SPSAM_DEVICE": "cpu",
            "SPSAM_PRECISION": options.precision,
            "SPSAM_THREADS": str(options.threads),
        }
        return run(folder / f"output-{count}", settings, "infer.yml").wall_s

    alone = seconds(1)
    return (seconds(len(images)) - alone) / (len(images) - 1)


class StandardOutputElsewhere:
    """What is printed meanwhile goes to stderr: stdout is for the figures."""

    def __enter__(self) -> None:
        self.before, sys.stdout = sys.stdout, sys.stderr

    def __exit__(self, *_: object) -> None:
        sys.stdout = self.before


if __name__ == "__main__":
    main()
