"""Counts the pixels of every class on every slice that the mask decoder sends, and writes them to areas.csv."""

import csv
import os
from pathlib import Path

import numpy as np
from dora import Node

FOLDER = Path(os.environ.get("SPSAM_BASE", ""), os.environ.get("SPSAM_OUTPUT") or "output")


def areas(logits):
    """Number of pixels of each class in a slice, from logits [N, H, W]."""
    return np.bincount(logits.argmax(axis=0).ravel(), minlength=logits.shape[0])


def main():
    node = Node()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "areas.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "window", "slice", "class", "pixels"])
        for event in node:
            if event["type"] != "INPUT":
                continue
            about = event["metadata"]
            logits = event["value"].to_numpy(zero_copy_only=False).reshape(about["shape"])
            for label, pixels in enumerate(areas(logits)):
                table.writerow([about["case_id"], about["segment_id"], about["seq"], label, pixels])


if __name__ == "__main__":
    main()
