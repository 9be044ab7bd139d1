"""Bilinear resizing as torch does it, for comparison with whole-slice windows.

    volume_resize_reference.py FOLDER

Writes image_HxW_SIDE.nii with random voxels in [0, 1] and resized_HxW_SIDE.f32: every slice after
torch.nn.functional.interpolate(mode="bilinear", align_corners=False) to a longest side of SIDE, then zero-padded at right and
bottom to SIDE × SIDE. torch 2.11.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F

SIZES = [(216, 256, 256), (37, 50, 256), (101, 122, 64), (256, 216, 1024), (64, 64, 64), (300, 128, 96)]


def main(folder):
    rng = np.random.default_rng(7)
    for height, width, side in SIZES:
        volume = rng.random((3, height, width), dtype=np.float32)
        name = f"{height}x{width}_{side}"
        image = nib.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), np.diag([1.0, 1.0, 3.0, 1.0]))
        nib.save(image, folder / f"image_{name}.nii")
        scale = side / max(height, width)
        size = (int(height * scale + 0.5), int(width * scale + 0.5))
        resized = F.interpolate(torch.from_numpy(volume)[:, None], size, mode="bilinear", align_corners=False)
        padded = F.pad(resized, (0, side - size[1], 0, side - size[0]))
        padded[:, 0].numpy().astype("<f4").tofile(folder / f"resized_{name}.f32")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
