"""Dice, HD95 and NSD by DeepMind's surface-distance 0.1, for tests/parity/metrics.rs.

Usage: metrics_reference.py OUT.safetensors [ACDC_FOLDER]

`<case>.truth`, `<case>.prediction` label volumes [z, y, x], `<case>.spacing` mm, `<case>.tolerance` mm and
`<case>.metrics` [classes without background, (dice, hd95, nsd)]; `areas.<i>.spacing` and `areas.<i>.area`, the
area of each neighbour code. Cases named acdc are real labels and the same moved by a voxel.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy import ndimage

# surface-distance 0.1 uses these names, which numpy 2 no longer has.
np.Inf, np.NaN = np.inf, np.nan
ndimage.filters = ndimage.morphology = ndimage

import surface_distance
from surface_distance import lookup_tables

CLASSES = 4
rng = np.random.default_rng(11)
tensors = {}


def add(name, truth, prediction, spacing, tolerance):
    rows = []
    for label in range(1, CLASSES):
        masks = truth == label, prediction == label
        distances = surface_distance.compute_surface_distances(*masks, list(spacing))
        with np.errstate(invalid="ignore"):
            rows.append([
                surface_distance.compute_dice_coefficient(*masks),
                surface_distance.compute_robust_hausdorff(distances, 95),
                surface_distance.compute_surface_dice_at_tolerance(distances, tolerance),
            ])
    tensors[f"{name}.truth"] = np.ascontiguousarray(truth, np.uint8)
    tensors[f"{name}.prediction"] = np.ascontiguousarray(prediction, np.uint8)
    tensors[f"{name}.spacing"] = np.array(spacing, float)
    tensors[f"{name}.tolerance"] = np.array([tolerance], float)
    tensors[f"{name}.metrics"] = np.array(rows, float)


def smooth(shape, sigma):
    return np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for _ in range(CLASSES)])


for index in range(24):
    shape = tuple(rng.integers(3, 28, 3))
    logits = smooth(shape, rng.uniform(0.5, 3))
    noise = smooth(shape, rng.uniform(0.5, 3))
    noise *= rng.uniform(0.1, 1.5) * logits.std() / noise.std()
    truth, prediction = logits.argmax(0), (logits + noise).argmax(0)
    if index % 6 == 1:
        truth[truth == 2] = 0
    if index % 6 == 2:
        prediction[prediction == 3] = 0
    if index % 6 == 3:
        truth[truth == 1], prediction[prediction == 1] = 0, 0
    add(f"smooth{index}", truth, prediction, rng.uniform(0.4, 6, 3), rng.choice([0.5, 1.0, 2.0, 5.0]))
for index in range(4):  # every neighbour code
    shape = tuple(rng.integers(4, 20, 3))
    truth, prediction = rng.integers(0, 2, (2, *shape))
    add(f"noise{index}", truth, prediction, rng.uniform(0.4, 6, 3), 1.0)
dot, far = np.zeros((2, 6, 9, 12), int)
dot[2, 3, 4], far[5, 8, 11] = 1, 1
add("voxels", dot, far, (3.0, 1.25, 0.8), 1.0)
add("full", np.ones((4, 5, 6), int), np.ones((4, 5, 6), int), (3.0, 1.25, 0.8), 1.0)
add("flat", np.ones((1, 5, 6), int), np.eye(6, dtype=int)[None, :5], (10.0, 1.5, 1.5), 1.0)

if len(sys.argv) > 2:
    import nibabel

    for path in sorted(Path(sys.argv[2]).glob("patient??3/*_gt.nii.gz"))[:4]:
        image = nibabel.load(path)
        truth = np.asarray(image.dataobj).astype(int).transpose(2, 1, 0)
        spacing = [float(mm) for mm in image.header.get_zooms()[:3]][::-1]
        for axis in range(3):
            add(f"acdc{path.name}{axis}", truth, np.roll(truth, 1, axis), spacing, 2.0)

for index, spacing in enumerate([(1, 1, 1), (3, 0.7, 1.3), (10, 1.5, 1.5), (0.2, 6, 2)]):
    tensors[f"areas.{index}.spacing"] = np.array(spacing, float)
    tensors[f"areas.{index}.area"] = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
save_file(tensors, sys.argv[1])
