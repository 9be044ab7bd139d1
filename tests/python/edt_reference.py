"""Distance transforms by scipy, for tests/parity/distance.rs.

Usage: edt_reference.py OUT.safetensors

`planes.<i>.mask` is a mask and `planes.<i>.distance` its distance to the border, outside the image counting
as background; `volumes.<i>.*` are sites, spacing (mm) and distance (mm) to the nearest site.
"""

import sys

import numpy as np
from safetensors.numpy import save_file
from scipy import ndimage

rng = np.random.default_rng(7)
y, x = np.mgrid[:64, :80]
radius = np.hypot(y - 30, x - 41)
masks = [
    np.ones((17, 23), bool),
    np.ones((1, 1), bool),
    np.zeros((5, 6), bool),
    (radius < 28) & (radius > 17),
    radius > 20,
    (y + x) % 2 == 0,
    (y == 3) | (x == 79),
    (y // 8 + x // 16) % 2 == 0,
    np.ones((256, 256), bool),
]
for density in (0.02, 0.3, 0.7, 0.98, 0.999):
    masks.append(rng.random((rng.integers(2, 90), rng.integers(2, 90))) < density)
    blob = ndimage.gaussian_filter(rng.standard_normal((120, 90)), 5)
    masks.append(blob > np.quantile(blob, 1 - density))

tensors = {}
for index, mask in enumerate(masks):
    padded = ndimage.distance_transform_edt(np.pad(mask, 1))
    tensors[f"planes.{index}.mask"] = mask.astype(np.uint8)
    tensors[f"planes.{index}.distance"] = np.ascontiguousarray(padded[1:-1, 1:-1])

for index in range(20):
    shape = rng.integers(1, 30, 3)
    sites = rng.random(shape) < rng.choice([0.003, 0.05, 0.5])
    sites[tuple(rng.integers(0, shape))] = True
    spacing = rng.choice([0.3, 0.7, 1.0, 1.25, 5.0, 10.0], 3)
    tensors[f"volumes.{index}.sites"] = sites.astype(np.uint8)
    tensors[f"volumes.{index}.spacing"] = spacing
    tensors[f"volumes.{index}.distance"] = ndimage.distance_transform_edt(~sites, sampling=spacing)

save_file(tensors, sys.argv[1])
