"""Volumes for the benchmarks: a real CT resampled to any size, with any number of artificial organs."""

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

# Voxel size of the artificial CT, mm: slices are thicker than pixels are wide, as in clinical scans.
SPACING_MM = (0.75, 0.75, 1.5)



def write_ct(source: Path, shape: tuple[int, int, int], classes: int, image: Path, label: Path) -> None:
    """Resamples the CT `source` to `shape` voxels `[x, y, z]` and draws an ellipsoid for each of `classes - 1` organs."""
    ct = nib.load(source)
    voxels = np.asarray(ct.dataobj)
    zoom = [new / old for new, old in zip(shape, voxels.shape)]
    resampled = ndimage.zoom(voxels.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    affine = ct.affine @ np.diag([*(new / old for new, old in zip(SPACING_MM, ct.header.get_zooms())), 1.0])
    save(np.rint(resampled).astype(np.int16), affine, image)
    save(organs(shape, classes - 1), affine, label)


def organs(shape: tuple[int, int, int], count: int) -> np.ndarray:
    """`count` ellipsoids side by side through the middle half of the volume, in every slice of it."""
    labels = np.zeros(shape, np.uint8)
    across = int(np.ceil(np.sqrt(count)))
    cell = [shape[0] / 2 / across, shape[1] / 2 / across]
    x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]
    for organ in range(count):
        column, row = organ % across, organ // across
        centre = [shape[0] / 4 + (column + 0.5) * cell[0], shape[1] / 4 + (row + 0.5) * cell[1], (shape[2] - 1) / 2]
        # They extend beyond the first and last slice, so that every slice contains every organ, the most expensive
        # case.
        radius = [0.45 * cell[0], 0.45 * cell[1], 0.6 * shape[2]]
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radius)) < 1
        labels[inside] = organ + 1
    return labels


def save(voxels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Compressed with gzip's fastest level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.openers.Opener.default_compresslevel = 1
    nib.save(nib.Nifti1Image(voxels, affine), path)


def cut_slices(source: Path, slices: int, path: Path) -> None:
    """The middle `slices` slices of a volume."""
    volume = nib.load(source)
    first = max(0, (volume.shape[2] - slices) // 2)
    save(np.asarray(volume.dataobj)[:, :, first : first + slices], volume.affine, path)
