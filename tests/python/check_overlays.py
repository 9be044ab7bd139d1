"""Compares pictures with the masks and the volume that they show: check_overlays.py PICTURES MASKS VOLUME.

Outlines are made from the masks anew. Elsewhere a picture must be grey, and brighter where the volume is. Prints the number of
pictures, or fails.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np

COLOURS = {1: (0xE6, 0x9F, 0x00), 2: (0x56, 0xB4, 0xE9)}


def main(pictures, masks, volume):
    images = np.asarray(nib.load(volume).dataobj, np.float32)[:, ::-1].transpose(2, 1, 0)
    paths, outlines = sorted(pictures.glob("*.npy")), 0
    assert paths, "no pictures"
    for path in paths:
        picture, mask = np.load(path), np.load(masks / path.name).astype(int)
        image = images[int(path.name[:3])]
        assert picture.shape == (*mask.shape, 3) and image.shape == mask.shape, f"{path.name}: {picture.shape}"
        padded = np.pad(mask, 1, constant_values=-1)
        around = [padded[1 + y:padded.shape[0] - 1 + y, 1 + x:padded.shape[1] - 1 + x] for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        is_outline = (mask > 0) & (np.min(around, axis=0) < mask)
        for label, colour in COLOURS.items():
            assert (picture[is_outline & (mask == label)] == colour).all(), f"{path.name}: outline of {label}"
        grey = picture[~is_outline]
        assert (grey == grey[:, :1]).all(), f"{path.name}: colours beside the outlines"
        order = np.argsort(image[~is_outline], kind="stable")
        steps = np.diff(grey[order, 0].astype(int))
        assert (steps >= 0).all() and np.ptp(grey) > 100, f"{path.name}: other intensities"
        outlines += is_outline.any()
    assert outlines, "no outlines"
    print(len(paths))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
