"""Writes small volumes with two blobs each and their labels: make_cases.py IMAGES LABELS CASES SLICES."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def main() -> None:
    images, labels = Path(sys.argv[1]), Path(sys.argv[2])
    cases, slices = int(sys.argv[3]), int(sys.argv[4])
    images.mkdir()
    labels.mkdir()
    for case in range(cases):
        rng = np.random.default_rng(case)
        x, y, z = np.meshgrid(np.arange(64), np.arange(64), np.arange(slices), indexing="ij")
        label = np.zeros((64, 64, slices), np.uint8)
        for value in (1, 2):
            centre = rng.uniform([16, 16, slices / 4], [48, 48, 3 * slices / 4])
            radius = rng.uniform([6, 6, slices / 4], [12, 12, slices / 2])
            inside = sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radius)) < 1
            label[inside] = value
        image = 100 * label + rng.normal(200, 20, label.shape)
        affine = np.diag([1.0, 1.0, 2.5, 1.0])
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), images / f"case_{case}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), labels / f"case_{case}.nii.gz")


if __name__ == "__main__":
    main()
