"""Largest connected components by scipy, for tests/parity/components.rs.

Usage: components_reference.py OUT.safetensors

`volumes.<i>.labels` is a label map and `volumes.<i>.largest` what is left of it when only the largest component of its
foreground (26 neighbours) stays.
"""

import sys

import numpy as np
from safetensors.numpy import save_file
from scipy import ndimage

rng = np.random.default_rng(11)
tensors = {}
for index in range(24):
    shape = rng.integers(1, 24, 3)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), rng.choice([0, 0.5, 1.5]))
    foreground = noise > np.quantile(noise, rng.choice([0.5, 0.8, 0.95]))
    labels = (foreground * rng.integers(1, 4, shape)).astype(np.uint8)
    components, count = ndimage.label(foreground, np.ones((3, 3, 3)))
    largest = np.zeros_like(labels)
    if count:
        # scipy numbers components in index order, and argmax takes the first in case of a tie.
        largest = labels * (components == 1 + np.argmax(np.bincount(components.ravel())[1:]))
    tensors[f"volumes.{index}.labels"] = labels
    tensors[f"volumes.{index}.largest"] = largest

save_file(tensors, sys.argv[1])
